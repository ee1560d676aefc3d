/* The points of a plan: filtered by limits and choices, ranked again, drawn, and each one's breakdown and run file. */
(function () {
  'use strict';
  var data = JSON.parse(document.getElementById('plan-data').textContent);
  var box = document.getElementById('points'), list = document.querySelector('#ranked tbody');
  var rankBy = document.getElementById('rank-by'), form = document.getElementById('controls');
  var count = data.numbers.length, selected = -1, view = null, moved = false;
  var MINUS = '−', NBSP = ' ', Z90 = 1.645, LISTED = 10, MANY = 3000, NEAR = 14;
  var XML = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
  var SHAPES = [circle, square, triangle, diamond, cross];
  var keyX = data.objectives[1], keyY = data.objectives[0];

  function $(id) { return document.getElementById(id); }
  function escape(words) { return String(words).replace(/[&<>"]/g, function (c) { return XML[c]; }); }
  function circle(x, y, r) { return 'M' + (x - r) + ' ' + y + 'a' + r + ' ' + r + ' 0 1 0 ' + 2 * r + ' 0a' + r + ' ' + r + ' 0 1 0 ' + -2 * r + ' 0z'; }
  function square(x, y, r) { return 'M' + (x - r * 0.9) + ' ' + (y - r * 0.9) + 'h' + r * 1.8 + 'v' + r * 1.8 + 'h' + -r * 1.8 + 'z'; }
  function triangle(x, y, r) { return 'M' + x + ' ' + (y - r * 1.2) + 'L' + (x + r * 1.15) + ' ' + (y + r * 0.85) + 'H' + (x - r * 1.15) + 'z'; }
  function diamond(x, y, r) { return 'M' + x + ' ' + (y - r * 1.3) + 'L' + (x + r * 1.3) + ' ' + y + 'L' + x + ' ' + (y + r * 1.3) + 'L' + (x - r * 1.3) + ' ' + y + 'z'; }
  function cross(x, y, r) { return 'M' + (x - r) + ' ' + (y - r * 0.3) + 'h' + r * 0.7 + 'v' + -r * 0.7 + 'h' + r * 0.6 + 'v' + r * 0.7 + 'h' + r * 0.7 + 'v' + r * 0.6 + 'h' + -r * 0.7 + 'v' + r * 0.7 + 'h' + -r * 0.6 + 'v' + -r * 0.7 + 'h' + -r * 0.7 + 'z'; }
  function shape(i) { return SHAPES[data.device.at[i] % SHAPES.length]; }

  function significant(value) {
    if (!value) return '0';
    var rounded = Number(value.toPrecision(3)), digits = Math.min(8, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(rounded)))));
    return rounded.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace('-', MINUS);
  }
  function bare(f, value) { return f.whole ? Math.round(value / f.divisor).toLocaleString('en').replace('-', MINUS) : f.before + significant(value / f.divisor); }
  function write(f, value) { return bare(f, value) + f.after; }
  function writeLimit(figure, value) { var f = figure.axis; return f.before + Number((value / f.divisor).toPrecision(6)).toLocaleString('en', { maximumFractionDigits: 6 }).replace('-', MINUS) + f.after; }
  function low(f, i) { return f.factor ? f.value[i] / f.factor[i] : f.low ? f.low[i] : f.value[i]; }
  function high(f, i) { return f.factor ? f.value[i] * f.factor[i] : f.high_end ? f.high_end[i] : f.value[i]; }
  function range(f, i) { return low(f, i) === high(f, i) ? '' : bare(f, low(f, i)) + ' – ' + write(f, high(f, i)); }
  /* The end of the interval that decides: the bad one for the pessimist. */
  function decided(key, end) {
    var f = data.figures[key];
    if (end === 'value' || !(f.factor || f.low)) return f.value;
    var down = f.high === (end === 'pessimistic'), out = new Float64Array(count);
    for (var i = 0; i < count; i++) out[i] = down ? low(f, i) : high(f, i);
    return out;
  }

  function setting(i, path) {
    var axis = data.axes.find(function (a) { return a.path === path; });
    return axis && axis.values[axis.at[i]];
  }
  function gpus(i) { return data.figures.gpus.value[i]; }
  function cluster(i) {
    var name = gpus(i).toLocaleString('en') + ' ' + data.device.values[data.device.at[i]];
    return data.model.values.length > 1 ? data.model.values[data.model.at[i]] + ', ' + name : name;
  }
  function words(i) {
    return data.axes.filter(function (a) {
      return ['hardware.device', 'hardware.gpus', 'hardware', 'economics.gpu_hour', 'model'].indexOf(a.path) < 0;
    }).map(function (a) {
      var value = a.values[a.at[i]];
      if (a.path === 'parallelism' && value && typeof value === 'object')
        return Object.keys(value).filter(function (k) { return value[k] !== 1; }).map(function (k) { return k + value[k]; }).join(' ') || 'no split';
      return a.path.split('.').pop() + ' ' + (typeof value === 'object' ? JSON.stringify(value) : value);
    }).join(', ');
  }

  /* The run file, as the program writes it: a line a block, blocks in braces. */
  function yaml(value) {
    if (Array.isArray(value)) return '[' + value.map(yaml).join(', ') + ']';
    if (value && typeof value === 'object') return '{' + Object.keys(value).map(function (k) { return k + ': ' + yaml(value[k]); }).join(', ') + '}';
    if (typeof value === 'string' && /^[A-Za-z][\w.\/+-]*$/.test(value) && !/^(true|false|null|yes|no|on|off|y|n)$/i.test(value)) return value;
    return JSON.stringify(value);
  }
  function runFile(i) {
    var run = JSON.parse(JSON.stringify(data.base));
    data.axes.slice().sort(function (a, b) { return a.path.split('.').length - b.path.split('.').length; }).forEach(function (axis) {
      var parts = axis.path.split('.'), last = parts.pop(), at = run;
      parts.forEach(function (part) {
        if (at[part] === undefined || at[part] === null) at[part] = {};
        else if (typeof at[part] === 'string') at[part] = { 'extends': at[part] };
        at = at[part];
      });
      at[last] = axis.values[axis.at[i]];
    });
    run.name = data.name + '-' + gpus(i) + 'x' + data.device.values[data.device.at[i]];
    return Object.keys(run).map(function (key) { return key + ': ' + yaml(run[key]) + '\n'; }).join('');
  }

  /* Everything that follows from the controls. */
  function update() {
    var end = form.querySelector('[name=end]:checked').value, limits = data.limits.map(function (limit, k) {
      var at = +$('limit-' + k).value, loosest = limit.at_least ? at === 0 : at === limit.stops.length - 1;
      var value = limit.stops[at];
      $('amount-' + k).textContent = loosest && !limit.stated ? 'any' : writeLimit(data.figures[limit.key], value);
      return { of: limit, value: value, values: decided(limit.key, end), off: loosest && !limit.stated };
    });
    var choices = {};
    form.querySelectorAll('[data-axis]').forEach(function (box) {
      (choices[box.dataset.axis] = choices[box.dataset.axis] || {})[box.value] = box.checked;
    });
    var axes = data.axes.filter(function (a) { return choices[a.path]; });
    var visible = [], kept = [], status = new Uint8Array(count);
    for (var i = 0; i < count; i++) {
      if (!axes.every(function (a) { return choices[a.path][a.at[i]]; })) continue;
      visible.push(i);
      var ok = true;
      for (var k = 0; k < limits.length && ok; k++) ok = limits[k].off || (limits[k].of.at_least ? limits[k].values[i] >= limits[k].value : limits[k].values[i] <= limits[k].value);
      status[i] = ok ? 2 : 1;
      if (ok) kept.push(i);
    }
    var key = rankBy.value, score = decided(key, end), sign = data.figures[key].high ? -1 : 1;
    var order = kept.slice().sort(function (a, b) { return sign * (score[a] - score[b]) || data.numbers[a] - data.numbers[b]; });
    view = { end: end, limits: limits, visible: visible, status: status, order: order, key: key, score: score, front: front(kept, end) };
    if (selected < 0 || status[selected] !== 2 || !moved) selected = order.length ? order[0] : -1;
    say();
    draw();
    rank();
    show();
  }

  function front(kept, end) {
    var x = decided(keyX, end), y = decided(keyY, end), sx = data.figures[keyX].high ? -1 : 1, sy = data.figures[keyY].high ? -1 : 1;
    var best = Infinity, out = [];
    kept.slice().sort(function (a, b) { return sx * (x[a] - x[b]) || sy * (y[a] - y[b]) || data.numbers[a] - data.numbers[b]; }).forEach(function (i) {
      if (sy * y[i] < best) { best = sy * y[i]; out.push(i); }
    });
    return out;
  }

  function tied(a, b) {
    var f = data.figures[view.key], sigma = data.device.at[a] === data.device.at[b] && data.model.at[a] === data.model.at[b] ? data.errors.same : data.errors.other;
    if (!f.factor && !f.low) return f.value[a] === f.value[b];
    return Math.abs(Math.log(f.value[a] / f.value[b])) <= Z90 * sigma;
  }

  function say() {
    var order = view.order, near = order.filter(function (i, k) { return k && tied(order[0], i); }).length;
    if (order.length) {
      $('explore-finding').textContent = order.length.toLocaleString('en') + ' of ' + view.visible.length.toLocaleString('en') + ' points keep the limits; ' + cluster(order[0]) + ' ' + data.best[view.key] + '.';
      $('list-finding').textContent = near ? (near + 1 < order.length ? 'The first ' : 'All ') + (near + 1).toLocaleString('en') + ' can’t be told apart.' : 'The first is ahead by more than the error of the difference.';
      return;
    }
    var ways = [];
    view.limits.forEach(function (limit) {
      var best = null;
      view.visible.forEach(function (i) {
        var others = view.limits.every(function (b) { return b === limit || b.off || (b.of.at_least ? b.values[i] >= b.value : b.values[i] <= b.value); });
        var v = limit.values[i];
        if (others && (best === null || (limit.of.at_least ? v > best : v < best))) best = v;
      });
      if (best !== null && !limit.off) ways.push(limit.of.label.toLowerCase() + ' ' + write(data.figures[limit.of.key], best));
    });
    $('explore-finding').textContent = !view.visible.length ? 'Nothing is chosen.' : 'Nothing keeps all limits. ' + (ways.length ? 'Any one of these would do: ' + ways.join('; ') + '.' : 'No single change is enough; relax two of them.');
    $('list-finding').textContent = 'No point to list.';
  }

  /* An axis over [low, high]: position in 0..1 and ticks; logarithmic above a factor of 6. */
  function axisOver(f, from, to) {
    var unit = f.axis.divisor, low = from / unit, high = to / unit, ticks = [];
    if (low > 0 && high / low > 6) {
      var a = Math.log10(low) - 0.02, b = Math.log10(high) + 0.02, steps = b - a > 2.5 ? [1] : b - a > 1.4 ? [1, 2, 5] : [1, 1.5, 2, 3, 5, 7];
      for (var p = Math.floor(a); p <= b; p++) steps.forEach(function (s) {
        var t = Number((s * Math.pow(10, p)).toPrecision(3));
        if (Math.log10(t) >= a && Math.log10(t) <= b) ticks.push(t);
      });
      return { log: true, ticks: ticks, at: function (v) { return (Math.log10(Math.max(v / unit, 1e-300)) - a) / (b - a); } };
    }
    var step = (high - low || Math.abs(high) || 1) / 4, power = Math.pow(10, Math.floor(Math.log10(step)));
    step = [1, 2, 2.5, 5, 10].find(function (s) { return s * power >= step * 0.999; }) * power;
    var first = Math.floor(low / step + 1e-9), last = Math.max(first + 1, Math.ceil(high / step - 1e-9));
    for (var k = first; k <= last; k++) ticks.push(Number((k * step).toPrecision(12)));
    return { log: false, ticks: ticks, at: function (v) { return (v / unit / step - first) / (last - first); } };
  }
  function tick(f, t) { return f.axis.before + t.toLocaleString('en', { maximumFractionDigits: 8 }).replace('-', MINUS) + f.axis.after; }

  function bounds(key) {
    var f = data.figures[key], values = view.score && decided(key, view.end), lo = Infinity, hi = -Infinity;
    view.visible.forEach(function (i) { if (values[i] < lo) lo = values[i]; if (values[i] > hi) hi = values[i]; });
    if (view.end === 'value') view.front.forEach(function (i) { lo = Math.min(lo, low(f, i)); hi = Math.max(hi, high(f, i)); });
    return lo <= hi ? [lo, hi] : [1, 10];
  }

  function draw() {
    var fx = data.figures[keyX], fy = data.figures[keyY], xs = decided(keyX, view.end), ys = decided(keyY, view.end);
    var W = Math.max(280, box.clientWidth || 820), narrow = W < 560, H = narrow ? 380 : 470, parts = [];
    var bx = bounds(keyX), by = bounds(keyY), ax = axisOver(fx, bx[0], bx[1]), ay = axisOver(fy, by[0], by[1]);
    var longest = Math.max.apply(null, ay.ticks.map(function (t) { return tick(fy, t).length; }));
    var left = Math.min(130, longest * 7.8 + 10), right = 16, top = 28, bottom = 46;
    function X(v) { return left + (W - left - right) * ax.at(v); }
    function Y(v) { return H - bottom - (H - bottom - top) * ay.at(v); }
    ay.ticks.forEach(function (t) {
      var y = Y(t * fy.axis.divisor);
      parts.push('<path d="M' + left + ' ' + y + 'H' + (W - right) + '" stroke="var(--rule)"/><text class="m" x="' + (left - 6) + '" y="' + (y + 4) + '" text-anchor="end">' + tick(fy, t) + '</text>');
    });
    ax.ticks.forEach(function (t, k) {
      var x = X(t * fx.axis.divisor);
      if ((narrow || ax.ticks.length > 9) && k % 2) return;
      parts.push('<path d="M' + x + ' ' + (H - bottom) + 'v4" stroke="var(--muted)"/><text class="m" x="' + x + '" y="' + (H - bottom + 18) + '" text-anchor="' + (x > W - 40 ? 'end' : 'middle') + '">' + tick(fx, t) + '</text>');
    });
    parts.push('<text class="m" x="' + (left + W - right) / 2 + '" y="' + (H - 6) + '" text-anchor="middle">' + escape(fx.label) + (ax.log ? ' (log scale)' : '') + '</text>');
    parts.push('<text class="m" x="0" y="11">' + escape(fy.label) + (ay.log ? ' (log scale)' : '') + '</text>');
    view.limits.forEach(function (limit) {
      if (limit.off) return;
      var label = escape(limit.of.label.toLowerCase() + ' ' + writeLimit(data.figures[limit.of.key], limit.value)), x = X(limit.value), y = Y(limit.value);
      if (limit.of.key === keyX && x > left && x < W - right) parts.push('<path d="M' + x + ' ' + top + 'V' + (H - bottom) + '" stroke="var(--ink)" stroke-dasharray="5 3"/><text x="' + (x + (x > W * 0.6 ? -6 : 6)) + '" y="' + (top - 6) + '" text-anchor="' + (x > W * 0.6 ? 'end' : 'start') + '">' + label + '</text>');
      if (limit.of.key === keyY && y > top && y < H - bottom) parts.push('<path d="M' + left + ' ' + y + 'H' + (W - right) + '" stroke="var(--ink)" stroke-dasharray="5 3"/><text x="' + (W - right - 4) + '" y="' + (y - 5) + '" text-anchor="end">' + label + '</text>');
    });
    var edge = {};
    view.front.forEach(function (i) { edge[i] = true; });
    view.X = X; view.Y = Y; view.xs = xs; view.ys = ys;
    cloud(W, H, edge);
    if (view.front.length > 1) parts.push('<path d="M' + view.front.map(function (i) { return X(xs[i]).toFixed(1) + ' ' + Y(ys[i]).toFixed(1); }).join('L') + '" fill="none" stroke="var(--expert)" stroke-width="1.6"/>');
    view.front.forEach(function (i) {
      var x = +X(xs[i]).toFixed(1), y = +Y(ys[i]).toFixed(1);
      if (view.end === 'value') parts.push('<path d="M' + X(low(fx, i)) + ' ' + y + 'H' + X(high(fx, i)) + 'M' + x + ' ' + Y(low(fy, i)) + 'V' + Y(high(fy, i)) + '" stroke="var(--expert)" stroke-opacity=".55"/>');
      parts.push('<path data-front="' + data.numbers[i] + '" d="' + shape(i)(x, y, 5.4) + '" fill="var(--expert)" stroke="var(--bg)"><title>' + escape(cluster(i) + ', ' + words(i)) + '</title></path>');
    });
    if (selected >= 0) {
      var sx = X(xs[selected]), sy = Y(ys[selected]);
      parts.push('<circle cx="' + sx + '" cy="' + sy + '" r="11" fill="none" stroke="var(--ink)" stroke-width="2"/><text x="' + sx + '" y="' + (sy + 27) + '" text-anchor="' + (sx > W - 110 ? 'end' : sx < left + 90 ? 'start' : 'middle') + '" style="paint-order:stroke;stroke:var(--bg);stroke-width:4px;font-weight:600">' + escape(gpus(selected).toLocaleString('en') + ' ' + String(data.device.values[data.device.at[selected]]).slice(0, 24)) + '</text>');
    }
    var perRow = narrow ? 2 : 5;
    data.device.values.forEach(function (name, k) {
      var x = left + 8 + (k % perRow) * (W - left) / perRow, y = H + 16 + Math.floor(k / perRow) * 20;
      parts.push('<path d="' + SHAPES[k % SHAPES.length](x, y - 4.5, 4.5) + '" fill="var(--muted)"/><text x="' + (x + 10) + '" y="' + y + '">' + escape(String(name).slice(0, 20)) + '</text>');
    });
    var full = H + Math.ceil(data.device.values.length / perRow) * 20 + 6, old = box.querySelector('svg');
    if (old) old.remove();
    box.insertAdjacentHTML('beforeend', '<svg width="' + W + '" height="' + full + '" viewBox="0 0 ' + W + ' ' + full + '" role="img" aria-label="' +
      escape(fy.label + ' against ' + fx.label.toLowerCase() + '. ' + view.front.length + ' of ' + view.order.length + ' points that keep the limits are on the Pareto front. The ranked list below holds the best of them.') + '">' + parts.join('') + '</svg>');
  }

  /* All other marks, on a canvas under the drawing; dots where there are thousands. */
  function cloud(W, H, edge) {
    var canvas = box.querySelector('canvas'), ratio = window.devicePixelRatio || 1, style = getComputedStyle(document.documentElement);
    if (!canvas) canvas = box.insertBefore(document.createElement('canvas'), box.firstChild);
    canvas.width = W * ratio; canvas.height = H * ratio;
    canvas.style.width = W + 'px'; canvas.style.height = H + 'px';
    var pen = canvas.getContext('2d'), many = view.visible.length > MANY;
    pen.scale(ratio, ratio);
    [1, 2].forEach(function (status) {
      pen.fillStyle = style.getPropertyValue('--dense'); pen.strokeStyle = style.getPropertyValue('--wait'); pen.lineWidth = 1.1;
      view.visible.forEach(function (i) {
        if (view.status[i] !== status || edge[i]) return;
        var x = view.X(view.xs[i]), y = view.Y(view.ys[i]);
        if (many) { if (status === 2) pen.fillRect(x - 1.5, y - 1.5, 3, 3); else pen.strokeRect(x - 1, y - 1, 2, 2); return; }
        var path = new Path2D(shape(i)(+x.toFixed(1), +y.toFixed(1), status === 2 ? 4 : 3.2));
        if (status === 2) pen.fill(path); else pen.stroke(path);
      });
    });
  }

  function rank() {
    var fy = data.figures[view.key], other = view.key === keyX ? keyY : keyX, fx = data.figures[other], memory = data.figures.headroom_gib;
    document.querySelector('#ranked thead').innerHTML = '<tr><th scope="col">Rank</th><th scope="col">Cluster</th><th scope="col">Settings</th><th scope="col" class="num">' + escape(fy.label) + '</th><th scope="col" class="num">90' + NBSP + '% interval</th><th scope="col" class="num">' + escape(fx.label) + '</th>' + (memory ? '<th scope="col" class="num">Free memory</th>' : '') + '</tr>';
    list.innerHTML = view.order.slice(0, LISTED).map(function (i, k) {
      return '<tr data-i="' + i + '"' + (i === selected ? ' aria-current="true"' : '') + '><td>' + (k + 1) + (k && tied(view.order[0], i) ? ' ≈' : '') + '</td><td><button type="button">' + escape(cluster(i)) + '</button></td><td><span class="mono">' + escape(words(i)) + '</span></td><td class="num">' +
        write(fy, fy.value[i]) + '</td><td class="num">' + range(fy, i) + '</td><td class="num">' + write(fx, fx.value[i]) + '</td>' + (memory ? '<td class="num">' + write(memory, memory.value[i]) + '</td>' : '') + '</tr>';
    }).join('');
  }

  function show() {
    var i = selected;
    $('chosen-name').textContent = i < 0 ? 'none' : cluster(i) + ', ' + words(i);
    $('run-file').textContent = i < 0 ? '' : runFile(i);
    $('chosen-time').innerHTML = '';
    $('chosen-figures').textContent = i < 0 ? '' : Object.keys(data.figures).map(function (key) {
      var f = data.figures[key], spread = range(f, i);
      return f.label + ' ' + write(f, f.value[i]) + (spread ? ' (' + spread + ')' : '');
    }).join('; ') + '.';
    if (i < 0) return;
    var parts = data.kinds.map(function (kind, k) { return { key: kind.key, label: kind.label, seconds: data.seconds[k][i] }; }).filter(function (p) { return p.seconds > 0; });
    var sum = parts.reduce(function (total, p) { return total + p.seconds; }, 0);
    $('chosen-time').innerHTML = '<div class="stack" aria-hidden="true">' + parts.map(function (p) {
      return '<span class="' + (p.key === 'wait' ? 'k-wait' : '') + '" style="width:' + (100 * p.seconds / sum).toFixed(2) + '%;--c:var(--' + p.key + ');--o:var(--on-' + p.key + ')" title="' + p.label + '">' + (p.seconds / sum > 0.09 ? (100 * p.seconds / sum).toFixed(0) + NBSP + '%' : '') + '</span>';
    }).join('') + '</div><ul>' + parts.map(function (p) {
      return '<li><span class="sw" style="--c:var(--' + p.key + ')"></span>' + p.label + ' ' + (100 * p.seconds / sum).toFixed(1) + NBSP + '%</li>';
    }).join('') + '</ul>';
  }

  function choose(i, focus) {
    selected = i;
    moved = true;
    draw();
    rank();
    show();
    var row = focus && list.querySelector('tr[data-i="' + i + '"] button');
    if (row) row.focus();
  }
  list.addEventListener('click', function (event) {
    var row = event.target.closest('tr[data-i]');
    if (row) choose(+row.dataset.i, event.target.tagName === 'BUTTON');
  });
  box.addEventListener('click', function (event) {
    var place = box.getBoundingClientRect(), x = event.clientX - place.left, y = event.clientY - place.top, best = -1, gap = NEAR * NEAR;
    view.visible.forEach(function (i) {
      var dx = view.X(view.xs[i]) - x, dy = view.Y(view.ys[i]) - y, d = dx * dx + dy * dy - (view.status[i] === 2 ? 1 : 0);
      if (d < gap) { gap = d; best = i; }
    });
    if (best >= 0) choose(best, false);
  });
  form.addEventListener('input', function () { moved = false; update(); });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
  update();
  new ResizeObserver(draw).observe(box);
})();
