/* The movable window of the timeline: stream lanes of one stage, drawn from the embedded chunks and blocks. */
(function () {
  'use strict';
  var data = JSON.parse(document.getElementById('timeline-data').textContent);
  var box = document.querySelector('#detail .d'), stage = 0, span = data.duration;
  var width = data.window, start = 0, narrowest = Math.max(1, width / 400);
  var XML = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };

  function escape(words) { return words.replace(/[&<>"]/g, function (c) { return XML[c]; }); }

  /* Chunks hold starts relative to the one before; here they become [start, length, phase, batch, chunk, block]. */
  data.chunks.forEach(function (chunks) {
    var at = 0;
    chunks.forEach(function (c) { at += c[0]; c[0] = at; });
  });
  var longest = 0;
  data.chunks.forEach(function (chunks) { chunks.forEach(function (c) { longest = Math.max(longest, c[1]); }); });

  /* The first view begins with the chunk nearest the middle. */
  var middle = span * 0.45;
  if (data.chunks[0].length) start = data.chunks[0].reduce(function (a, b) {
    return Math.abs(b[0] - middle) < Math.abs(a[0] - middle) ? b : a;
  })[0];
  start = Math.max(0, Math.min(span - width, start));

  /* The operators of a block put together by stream and kind, one after the other: for windows that hold too many. */
  var MOST = 3000, sums = {};
  function coarse(index) {
    if (sums[index]) return sums[index];
    var found = {}, ends = [];
    data.blocks[index].forEach(function (s) {
      var key = s[0] + ' ' + s[2];
      found[key] = found[key] || [s[0], s[1], s[2], 0, 0];
      found[key][4] += s[4];
    });
    sums[index] = Object.keys(found).map(function (key) { return found[key]; });
    sums[index].forEach(function (s) { s[3] = ends[s[0]] || 0; ends[s[0]] = s[3] + s[4]; });
    return sums[index];
  }

  /* A unit in which the window reads well: [ticks in the unit, its name]. */
  function unit() {
    var seconds = width * data.tick;
    return seconds >= 2 ? [1 / data.tick, 's'] : seconds >= 0.002 ? [1e-3 / data.tick, 'ms'] : [1e-6 / data.tick, 'µs'];
  }
  function write(ticks, u) {
    var value = ticks / u[0], digits = width / u[0] >= 20 ? 0 : width / u[0] >= 2 ? 1 : 2;
    return value.toLocaleString('en', { minimumFractionDigits: 0, maximumFractionDigits: digits });
  }

  function draw() {
    var W = Math.max(280, box.clientWidth || 800), narrow = W < 560, left = narrow ? 0 : 138;
    var lanes = data.lanes.length ? data.lanes : ['Stage'], height = lanes.map(function (_, i) { return i ? 22 : 44; });
    var top = [], y = 4, parts = [], u = unit();
    lanes.forEach(function (_, i) { y += narrow ? 19 : 0; top[i] = y; y += height[i] + (narrow ? 5 : 12); });
    var H = y + 24;
    function X(t) { return left + (W - left) * (t - start) / width; }

    lanes.forEach(function (name, i) {
      var label = name.charAt(0).toUpperCase() + (name.length > 18 ? name.slice(1, 17) + '…' : name.slice(1));
      parts.push('<rect x="' + left + '" y="' + top[i] + '" width="' + (W - left) + '" height="' + height[i] + '" fill="var(--panel)"/>');
      parts.push('<text x="0" y="' + (narrow ? top[i] - 5 : top[i] + height[i] / 2 + 4.5) + '">' + escape(label) + '</text>');
    });

    function block(a, b, lane, color, words) {
      var p = Math.max(X(a), left), q = Math.min(X(b), W);
      if (q <= p) return;
      parts.push('<rect x="' + p.toFixed(1) + '" y="' + top[lane] + '" width="' + Math.max(q - p - 0.6, 0.7).toFixed(1) +
        '" height="' + height[lane] + '" fill="var(--' + color + ')"><title>' + escape(words) + '</title></rect>');
      if (q - p > words.length * 8 + 6)
        parts.push('<text x="' + ((p + q) / 2).toFixed(1) + '" y="' + (top[lane] + height[lane] / 2 + 4.5) +
          '" text-anchor="middle" pointer-events="none" style="fill:var(--on-' + color + ')">' + escape(words) + '</text>');
    }

    var seen = data.chunks[stage].filter(function (c) { return c[0] <= start + width && c[0] + Math.max(c[1], longest) >= start; });
    var held = seen.reduce(function (sum, c) { return sum + (c[5] < 0 ? 1 : data.blocks[c[5]].length); }, 0);
    var fine = held <= MOST, whole = seen.length * lanes.length > MOST;
    seen.forEach(function (c) {
      if (whole || c[5] < 0) { block(c[0], c[0] + c[1], 0, data.phaseColors[c[2]], data.phases[c[2]].replace('_', ' ')); return; }
      (fine ? data.blocks[c[5]] : coarse(c[5])).forEach(function (s) {
        block(c[0] + s[3], c[0] + s[3] + s[4], s[0], data.colors[s[2]], data.names[s[1]]);
      });
    });

    var steps = [1, 2, 5], step = 0, least = (narrow ? 70 : 90) * width / (W - left);
    for (var e = -3; !step && e < 7; e++) steps.forEach(function (m) {
      var ticks = m * Math.pow(10, e) * u[0];
      if (!step && ticks >= least) step = ticks;
    });
    step = step || width;
    for (var t = Math.ceil(start / step - 1e-9) * step; t <= start + width; t += step) {
      t = t || 0; /* no minus before zero */
      var anchor = X(t) > W - 34 ? 'end' : X(t) < left + 24 ? 'start' : 'middle';
      parts.push('<path d="M' + X(t).toFixed(1) + ' ' + (y - 6) + 'v5" stroke="var(--muted)"/><text class="m" text-anchor="' +
        anchor + '" x="' + X(t).toFixed(1) + '" y="' + (y + 14) + '">' + write(t, u) + ' ' + u[1] + '</text>');
    }

    var range = write(start, u) + ' to ' + write(start + width, u) + ' ' + u[1];
    box.innerHTML = '<svg width="' + W + '" height="' + H + '" viewBox="0 0 ' + W + ' ' + H + '" role="img" aria-label="Streams of stage ' +
      data.stages[stage] + ' from ' + range + '">' + parts.join('') + '</svg>';
    document.getElementById('window-stage').textContent = data.stages[stage];
    document.getElementById('window-range').textContent = range;
    document.querySelectorAll('svg.ov').forEach(function (view) {
      var x0 = +view.dataset.x0, w = +view.dataset.w, frame = view.querySelector('.brush rect');
      frame.setAttribute('x', x0 + (w - x0) * start / span);
      frame.setAttribute('width', Math.max((w - x0) * width / span, 3));
    });
  }

  function clamp() { start = Math.max(0, Math.min(span - width, start)); draw(); }

  function move(how) {
    var middle = start + width / 2;
    if (how === 'earlier') start -= width / 2;
    if (how === 'later') start += width / 2;
    if (how === 'in') { width = Math.max(narrowest, width / 2); start = middle - width / 2; }
    if (how === 'out') { width = Math.min(span, width * 2); start = middle - width / 2; }
    clamp();
  }

  document.querySelectorAll('[data-move]').forEach(function (button) {
    button.addEventListener('click', function () { move(button.dataset.move); });
  });
  document.getElementById('detail').addEventListener('keydown', function (event) {
    var how = { ArrowLeft: 'earlier', ArrowRight: 'later', '+': 'in', '=': 'in', '-': 'out' }[event.key];
    if (how) { event.preventDefault(); move(how); }
  });
  var choice = document.getElementById('stage');
  if (choice) choice.addEventListener('change', function () { stage = choice.selectedIndex; draw(); });
  document.querySelectorAll('svg.ov').forEach(function (view) {
    function drag(event) {
      if (event.type === 'pointermove' && !(event.buttons & 1)) return;
      var frame = view.getBoundingClientRect(), x0 = +view.dataset.x0, w = +view.dataset.w;
      var x = (event.clientX - frame.left) / frame.width * w;
      start = (x - x0) / (w - x0) * span - width / 2;
      clamp();
    }
    view.addEventListener('pointerdown', drag);
    view.addEventListener('pointermove', drag);
  });

  new ResizeObserver(draw).observe(box);
  draw();
  window.addEventListener('beforeprint', draw);
})();
