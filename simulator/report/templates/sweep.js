/* The scatter of a sweep and its ranked list, drawn from the embedded table for any two metrics. */
(function () {
  'use strict';
  var data = JSON.parse(document.getElementById('sweep-data').textContent);
  var box = document.getElementById('points'), list = document.querySelector('#ranked tbody');
  if (!data.points.length || !box) return;
  var selectX = document.getElementById('metric-x'), selectY = document.getElementById('metric-y');
  var selected = -1, MINUS = '−', XML = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
  var SHAPES = [circle, square, triangle, diamond, cross], MANY = 3000;

  function escape(words) { return String(words).replace(/[&<>"]/g, function (c) { return XML[c]; }); }
  function metric(key) { return data.metrics.find(function (m) { return m.key === key; }); }

  function significant(value) {
    if (!value) return '0';
    var size = Math.floor(Math.log10(Math.abs(Number(value.toPrecision(3))))), digits = Math.max(0, 2 - size);
    return Number(value.toPrecision(3)).toLocaleString('en', { minimumFractionDigits: Math.min(digits, 8), maximumFractionDigits: Math.min(digits, 8) }).replace('-', MINUS);
  }
  function write(m, value) { return value === null ? '–' : m.before + significant(value / m.divisor) + m.after; }
  function range(m, i) {
    return m.low && m.low[i] !== null && m.low[i] !== m.high_end[i]
      ? m.before + significant(m.low[i] / m.divisor) + ' – ' + m.before + significant(m.high_end[i] / m.divisor) + m.after : '';
  }
  function cost(m, i) { return m.high ? -m.value[i] : m.value[i]; }
  function settings(i) {
    return data.axes.map(function (path, k) { return [path, data.values[k][data.points[i][k]]]; });
  }
  /* As a shell takes it. */
  function quoted(word) { return /^[\w.,:=\/+-]+$/.test(word) ? word : "'" + word.replace(/'/g, "'\\''") + "'"; }
  function name(i) {
    return settings(i).map(function (s) { return s[0].split('.').pop() + ' ' + s[1]; }).join(', ');
  }

  /* Whether the interval of the difference, with independent errors, leaves out zero. */
  function apart(m, a, b) {
    if (!m.low) return true;
    var gap = m.value[a] - m.value[b];
    var down = Math.hypot(m.value[a] - m.low[a], m.high_end[b] - m.value[b]);
    var up = Math.hypot(m.high_end[a] - m.value[a], m.value[b] - m.low[b]);
    return gap - down > 0 || gap + up < 0;
  }

  function front(mx, my, all) {
    var best = Infinity, kept = [];
    all.slice().sort(function (a, b) { return cost(mx, a) - cost(mx, b) || cost(my, a) - cost(my, b); }).forEach(function (i) {
      if (cost(my, i) < best) { best = cost(my, i); kept.push(i); }
    });
    return kept;
  }

  function circle(x, y, r) { return 'M' + (x - r) + ' ' + y + 'a' + r + ' ' + r + ' 0 1 0 ' + 2 * r + ' 0a' + r + ' ' + r + ' 0 1 0 ' + -2 * r + ' 0z'; }
  function square(x, y, r) { return 'M' + (x - r * 0.9) + ' ' + (y - r * 0.9) + 'h' + r * 1.8 + 'v' + r * 1.8 + 'h' + -r * 1.8 + 'z'; }
  function triangle(x, y, r) { return 'M' + x + ' ' + (y - r * 1.2) + 'L' + (x + r * 1.15) + ' ' + (y + r * 0.85) + 'H' + (x - r * 1.15) + 'z'; }
  function diamond(x, y, r) { return 'M' + x + ' ' + (y - r * 1.3) + 'L' + (x + r * 1.3) + ' ' + y + 'L' + x + ' ' + (y + r * 1.3) + 'L' + (x - r * 1.3) + ' ' + y + 'z'; }
  function cross(x, y, r) { return 'M' + (x - r) + ' ' + (y - r * 0.3) + 'h' + r * 0.7 + 'v' + -r * 0.7 + 'h' + r * 0.6 + 'v' + r * 0.7 + 'h' + r * 0.7 + 'v' + r * 0.6 + 'h' + -r * 0.7 + 'v' + r * 0.7 + 'h' + -r * 0.6 + 'v' + -r * 0.7 + 'h' + -r * 0.7 + 'z'; }
  function shape(i) { return SHAPES[data.shape < 0 ? 0 : data.points[i][data.shape]]; }

  /* An axis that holds all values and whiskers given: position in 0..1 and ticks; logarithmic above a factor of 20. */
  function axis(m, values) {
    var low = Math.min.apply(null, values) / m.divisor, high = Math.max.apply(null, values) / m.divisor, ticks = [];
    if (low > 0 && high / low > 20) {
      var from = Math.log10(low), to = Math.log10(high), room = (to - from) * 0.04, steps = to - from > 2.5 ? [1] : [1, 2, 5];
      from -= room;
      to += room;
      for (var p = Math.floor(from); p <= to; p++) steps.forEach(function (s) {
        var t = Number((s * Math.pow(10, p)).toPrecision(3));
        if (Math.log10(t) >= from && Math.log10(t) <= to) ticks.push(t);
      });
      return { log: true, ticks: ticks, at: function (v) { return (Math.log10(v / m.divisor) - from) / (to - from); } };
    }
    var step = (high - low || Math.abs(high) || 1) / 4, power = Math.pow(10, Math.floor(Math.log10(step)));
    step = [1, 2, 2.5, 5, 10].find(function (s) { return s * power >= step * 0.999; }) * power;
    var first = Math.floor(low / step - 1e-9), last = Math.max(first + 1, Math.ceil(high / step + 1e-9));
    for (var k = first; k <= last; k++) ticks.push(Number((k * step).toPrecision(12)));
    return { log: false, ticks: ticks, at: function (v) { return (v / m.divisor / step - first) / (last - first); } };
  }
  function tick(m, t) { return m.before + t.toLocaleString('en', { maximumFractionDigits: 8 }).replace('-', MINUS) + m.after; }

  function points() {
    var mx = metric(selectX.value), my = metric(selectY.value), out = [];
    for (var i = 0; i < data.points.length; i++) if (mx.value[i] !== null && my.value[i] !== null) out.push(i);
    return out;
  }

  function draw() {
    var mx = metric(selectX.value), my = metric(selectY.value), all = points(), edge = front(mx, my, all);
    var W = Math.max(280, box.clientWidth || 820), narrow = W < 560, H = narrow ? 380 : 460, parts = [];
    var keys = data.shape < 0 ? [] : data.values[data.shape], perRow = narrow ? 2 : 4, keyRows = Math.ceil(keys.length / perRow);
    var onEdge = {}, xs = [], ys = [];
    edge.forEach(function (i) { onEdge[i] = true; });
    all.forEach(function (i) { xs.push(mx.value[i]); ys.push(my.value[i]); });
    edge.forEach(function (i) {
      if (mx.low) xs.push(mx.low[i], mx.high_end[i]);
      if (my.low) ys.push(my.low[i], my.high_end[i]);
    });
    var ax = axis(mx, xs), ay = axis(my, ys), longest = Math.max.apply(null, ay.ticks.map(function (t) { return tick(my, t).length; }));
    var left = Math.min(120, longest * 7.8 + 10), right = 16, top = 28, bottom = 46;
    function X(v) { return left + (W - left - right) * ax.at(v); }
    function Y(v) { return H - bottom - (H - bottom - top) * ay.at(v); }

    ay.ticks.forEach(function (t) {
      var y = Y(t * my.divisor);
      parts.push('<path d="M' + left + ' ' + y + 'H' + (W - right) + '" stroke="var(--rule)"/><text class="m" x="' + (left - 6) + '" y="' + (y + 4) + '" text-anchor="end">' + tick(my, t) + '</text>');
    });
    ax.ticks.forEach(function (t, k) {
      var x = X(t * mx.divisor);
      if (narrow && k % 2) return;
      parts.push('<path d="M' + x + ' ' + (H - bottom) + 'v4" stroke="var(--muted)"/><text class="m" x="' + x + '" y="' + (H - bottom + 18) + '" text-anchor="' + (x > W - 40 ? 'end' : 'middle') + '">' + tick(mx, t) + '</text>');
    });
    parts.push('<text class="m" x="' + (left + W - right) / 2 + '" y="' + (H - 6) + '" text-anchor="middle">' + escape(mx.label) + (ax.log ? ' (log scale)' : '') + '</text>');
    parts.push('<text class="m" x="0" y="11">' + escape(my.label) + (ay.log ? ' (log scale)' : '') + '</text>');

    var many = all.length > MANY, canvas = box.querySelector('canvas');
    if (canvas) canvas.remove();
    if (many) cloud(all, W, H, mx, my, X, Y);
    else all.forEach(function (i) {
      if (!onEdge[i]) parts.push('<path data-i="' + i + '" d="' + shape(i)(+X(mx.value[i]).toFixed(1), +Y(my.value[i]).toFixed(1), 4) + '" fill="var(--dense)" stroke="var(--bg)" stroke-width=".7"><title>' + escape(name(i)) + '</title></path>');
    });
    if (edge.length > 1) parts.push('<path d="M' + edge.map(function (i) { return X(mx.value[i]).toFixed(1) + ' ' + Y(my.value[i]).toFixed(1); }).join('L') + '" fill="none" stroke="var(--expert)" stroke-width="1.6"/>');
    edge.forEach(function (i) {
      var x = +X(mx.value[i]).toFixed(1), y = +Y(my.value[i]).toFixed(1), lines = '';
      if (mx.low) lines += 'M' + X(mx.low[i]) + ' ' + y + 'H' + X(mx.high_end[i]);
      if (my.low) lines += 'M' + x + ' ' + Y(my.low[i]) + 'V' + Y(my.high_end[i]);
      if (lines) parts.push('<path d="' + lines + '" stroke="var(--expert)" stroke-opacity=".55"/>');
      parts.push('<path data-i="' + i + '" d="' + shape(i)(x, y, 5.4) + '" fill="var(--expert)" stroke="var(--bg)"><title>' + escape(name(i)) + '</title></path>');
    });
    if (selected >= 0 && mx.value[selected] !== null && my.value[selected] !== null)
      parts.push('<circle cx="' + X(mx.value[selected]) + '" cy="' + Y(my.value[selected]) + '" r="11" fill="none" stroke="var(--ink)" stroke-width="2"/>');
    keys.forEach(function (value, k) {
      var x = left + 8 + (k % perRow) * (W - left) / perRow, y = H + 16 + Math.floor(k / perRow) * 20;
      parts.push('<path d="' + SHAPES[k](x, y - 4.5, 4.5) + '" fill="var(--muted)"/><text x="' + (x + 10) + '" y="' + y + '">' + escape(value.slice(0, 24)) + '</text>');
    });
    var full = H + (keyRows ? keyRows * 20 + 6 : 0);
    var old = box.querySelector('svg');
    if (old) old.remove();
    box.insertAdjacentHTML('beforeend', '<svg width="' + W + '" height="' + full + '" viewBox="0 0 ' + W + ' ' + full + '" role="img" aria-label="' +
      escape(my.label + ' against ' + mx.label.toLowerCase() + '. ' + edge.length + ' of ' + all.length + ' points are on the Pareto front. The ranked list below holds the best of them.') + '">' + parts.join('') + '</svg>');
    rank(mx, my, all, onEdge);
  }

  /* More than 3,000 dominated points: dots on a canvas under the drawing. */
  function cloud(all, W, H, mx, my, X, Y) {
    var canvas = document.createElement('canvas'), ratio = window.devicePixelRatio || 1, pen = canvas.getContext('2d');
    canvas.width = W * ratio; canvas.height = H * ratio;
    canvas.style.width = W + 'px'; canvas.style.height = H + 'px';
    pen.scale(ratio, ratio);
    pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue('--dense');
    all.forEach(function (i) { pen.fillRect(X(mx.value[i]) - 1.5, Y(my.value[i]) - 1.5, 3, 3); });
    box.insertBefore(canvas, box.firstChild);
  }

  function rank(mx, my, all, onEdge) {
    var order = all.slice().sort(function (a, b) { return cost(my, a) - cost(my, b) || a - b; }), best = order[0];
    document.getElementById('listing-y').textContent = my.label;
    document.getElementById('listing-x').textContent = mx.label;
    list.innerHTML = order.slice(0, data.listed).map(function (i, k) {
      var near = k && my.low && !apart(my, best, i);
      return '<tr data-i="' + i + '"' + (i === selected ? ' aria-current="true"' : '') + '><td><button type="button" aria-label="Point ' + (k + 1) + ': ' + escape(name(i)) + '">' + (k + 1) + '</button>' + (near ? '≈' : '') +
        (onEdge[i] ? '<span class="vh"> on the front</span>' : '') + '</td>' +
        settings(i).map(function (s) { return '<td><span class="mono">' + escape(s[1]) + '</span></td>'; }).join('') +
        '<td class="num">' + write(my, my.value[i]) + '</td><td class="num">' + range(my, i) + '</td><td class="num">' + write(mx, mx.value[i]) + '</td></tr>';
    }).join('');
    show(best);
  }

  function show(best) {
    var i = selected < 0 ? best : selected;
    document.getElementById('chosen-name').textContent = name(i) || 'The only point';
    document.getElementById('chosen-figures').textContent = data.metrics.map(function (m) {
      var spread = range(m, i);
      return m.label + ' ' + write(m, m.value[i]) + (spread ? ' (' + spread + ')' : '');
    }).join('; ') + '.';
    document.getElementById('chosen-settings').textContent = settings(i).map(function (s) { return '--set ' + quoted(s[0] + '=' + s[1]); }).join(' ');
  }

  function pick(event) {
    var hit = event.target.closest('[data-i]'), focus = event.target.closest('button');
    if (!hit) return;
    selected = +hit.dataset.i;
    draw();
    var row = focus && list.querySelector('tr[data-i="' + selected + '"] button');
    if (row) row.focus();
  }
  box.addEventListener('click', pick);
  list.addEventListener('click', pick);
  [selectX, selectY].forEach(function (select) { select.addEventListener('change', function () { selected = -1; draw(); }); });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
  new ResizeObserver(draw).observe(box);
  draw();
})();
