/* A validation's page: the metric and rows a reader chooses, marks and rows that open, a list that sorts. */
(function () {
  'use strict';
  var data = JSON.parse(document.getElementById('validation-data').textContent);
  var MINUS = '−', NBSP = '\u00a0', XML = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' }, NEAR = 18;
  var metric = document.getElementById('metric'), set = document.getElementById('set'), find = document.getElementById('find');
  var blocks = all(document, '[data-metric]');

  function all(root, selector) { return [].slice.call(root.querySelectorAll(selector)); }
  function escape(words) { return String(words).replace(/[&<>"]/g, function (c) { return XML[c]; }); }
  function shown() { return metric ? metric.value : blocks[0].dataset.metric; }
  function wanted() { return set ? set.value : 'all'; }
  /* As a shell takes it. */
  function quoted(word) { return /^[\w.,:=\/+-]+$/.test(word) ? word : "'" + word.replace(/'/g, "'\\''") + "'"; }

  function significant(value) {
    if (!value) return '0';
    var size = Math.floor(Math.log10(Number(value.toPrecision(3)))), digits = Math.min(8, Math.max(0, 2 - size));
    return Number(value.toPrecision(3)).toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits });
  }

  /* What is known of one row. */
  function figures(row) {
    return '<div class="scroll"><table><thead><tr><th scope="col">Metric</th><th scope="col" class="num">Predicted</th><th scope="col" class="num">90' + NBSP + '% interval</th><th scope="col" class="num">Measured</th><th scope="col" class="num">Error</th><th scope="col">Inside</th></tr></thead><tbody>' +
      Object.keys(row.figures).map(function (key) {
        var f = row.figures[key];
        return '<tr><td>' + escape(data.metrics[key]) + '</td><td class="num">' + escape(f[0]) + '</td><td class="num">' + escape(f[1]) + '</td><td class="num">' + escape(f[2]) + '</td><td class="num">' + escape(f[3]) + '</td><td>' + (f[4] ? 'yes' : 'no') + '</td></tr>';
      }).join('') + '</tbody></table></div>';
  }
  function breakdown(row) {
    var sum = row.parts.reduce(function (s, part) { return s + part[1]; }, 0);
    if (!sum) return '';
    var parts = row.parts.slice().sort(function (a, b) { return b[1] - a[1]; }), most = parts[0][1];
    return '<p><b>Predicted ' + escape(row.unit) + ': ' + significant(sum / row.time[0]) + row.time[1] + '</b>, mean over the GPUs</p><div class="rows">' + parts.map(function (part) {
      var kind = data.parts[part[0]], share = 100 * part[1] / sum;
      return '<div class="r"><div class="lab">' + escape(kind[0]) + '</div><div class="trk" style="--n:1"><span class="seg' + (kind[1] === 'wait' ? ' k-wait' : '') + '" style="left:0;width:' + (100 * part[1] / most).toFixed(2) + '%;--c:var(--' + kind[1] + ');--o:var(--on-' + kind[1] + ')"></span></div><div class="val">' +
        significant(part[1] / row.time[0]) + row.time[1] + ' <small>' + (share < 0.05 ? '&lt;0.1' : share.toFixed(1)) + NBSP + '%</small></div></div>';
    }).join('') + '</div>';
  }
  function settings(row) {
    var lines = row.settings.map(function (place, k) { var value = data.values[k][place]; return value && data.columns[k] + ': ' + value; }).filter(Boolean);
    return '<details><summary>Settings of the run</summary><pre>' + escape(lines.join('\n')) + '</pre></details>';
  }
  function made(i) {
    var row = data.rows[i];
    return '<div class="made"><p><b>' + escape(row.id) + '</b>: ' + escape(row.about) + '</p>' + figures(row) + breakdown(row) +
      (row.source ? '<p><b>Source:</b> ' + escape(row.source) + '</p>' : '') + (row.notes ? '<p><b>Notes:</b> ' + escape(row.notes) + '</p>' : '') +
      settings(row) + '<p>To repeat it:</p><pre>' + escape('moesim validate ' + quoted(data.table) + ' --where ' + quoted('id=' + row.id)) + '</pre></div>';
  }

  /* Rows that open in place. */
  function close(row) {
    if (row.nextSibling && row.nextSibling.className === 'opened') row.nextSibling.remove();
    row.querySelector('button').setAttribute('aria-expanded', 'false');
  }
  function toggle(row) {
    var button = row.querySelector('button'), open = button.getAttribute('aria-expanded') === 'true';
    close(row);
    if (open) return;
    button.setAttribute('aria-expanded', 'true');
    row.insertAdjacentHTML('afterend', '<tr class="opened"><td colspan="' + row.cells.length + '">' + made(row.dataset.i) + '</td></tr>');
  }
  function sort(head) {
    var row = head.parentNode, body = row.parentNode.nextElementSibling, column = [].indexOf.call(row.cells, head);
    var down = head.getAttribute('aria-sort') === 'ascending', numeric = head.classList.contains('num'), rows = all(body, 'tr[data-i]');
    function value(tr) {
      var text = tr.cells[column].textContent;
      return numeric ? parseFloat(text.replace(/−/g, '-').replace(/[^\d.e+-]/g, '')) || 0 : text.toLowerCase();
    }
    rows.forEach(close);
    rows.map(function (tr) { return [value(tr), +tr.dataset.i, tr]; }).sort(function (a, b) {
      return (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0) * (down ? -1 : 1) || a[1] - b[1];
    }).forEach(function (entry) { body.appendChild(entry[2]); });
    all(row, 'th').forEach(function (th) { th.setAttribute('aria-sort', th !== head ? 'none' : down ? 'descending' : 'ascending'); });
  }
  all(document, '.list').forEach(function (list) {
    list.addEventListener('click', function (event) {
      var button = event.target.closest('button'), head = button && button.closest('thead th'), row = button && button.closest('tr[data-i]');
      if (head) sort(head);
      else if (row) toggle(row);
    });
  });

  /* Marks: the nearest one to the pointer shows its interval, and opens on a click. */
  function use(view, i) { return view.querySelector('use[data-i="' + i + '"]'); }
  function mark(view, key, i, chosen) {
    var at = use(view, i), row = data.rows[i].figures[key], zero = +view.dataset.zero, decade = +view.dataset.decade;
    if (!at) return '';
    var x = at.getAttribute('x'), y = at.getAttribute('y'), line = '';
    if (row[5] > 0 && row[6] > row[5]) line = 'M' + x + ' ' + (zero - decade * Math.log10(row[5])).toFixed(1) + 'V' + (zero - decade * Math.log10(row[6])).toFixed(1);
    return (line && '<path class="halo-line" d="' + line + '"/><path class="whisker" d="' + line + '"/>') + '<circle class="ring" cx="' + x + '" cy="' + y + '" r="' + (chosen ? 9 : 7) + '"/>';
  }
  function nearest(view, event) {
    var matrix = view.getScreenCTM(), best = null, least = NEAR;
    if (!matrix) return best;
    var x = (event.clientX - matrix.e) / matrix.a, y = (event.clientY - matrix.f) / matrix.d;
    all(view, '.marks:not([hidden]) use:not([hidden])').forEach(function (at) {
      var far = Math.hypot(at.getAttribute('x') - x, at.getAttribute('y') - y);
      if (far < least) { least = far; best = at.dataset.i; }
    });
    return best;
  }
  all(document, '#scatter [data-metric]').forEach(function (block) {
    var readout = block.querySelector('.readout'), picked = block.querySelector('.picked'), chosen = null, over = null;
    if (!readout) return;
    all(block, 'svg[role=img]').forEach(function (view) {
      view.insertAdjacentHTML('beforeend', '<g class="shown"></g>');
      view.addEventListener('pointermove', function (event) {
        var now = nearest(view, event);
        if (now !== over) { over = now; draw(); }
      });
      view.addEventListener('pointerleave', function () { over = null; draw(); });
      view.addEventListener('click', function (event) {
        var now = nearest(view, event);
        if (now === null) return;
        chosen = now;
        picked.innerHTML = made(now);
        draw();
      });
    });
    function draw() {
      all(block, 'svg[role=img]').forEach(function (view) {
        view.querySelector('.shown').innerHTML = (chosen === null ? '' : mark(view, block.dataset.metric, chosen, true)) + (over === null || over === chosen ? '' : mark(view, block.dataset.metric, over, false));
      });
      if (over === null) { readout.textContent = ''; return; }
      var row = data.rows[over], f = row.figures[block.dataset.metric];
      readout.textContent = row.id + ', ' + row.about + ': predicted ' + f[0] + ' (' + f[1] + '), measured ' + f[2] + ', error ' + f[3] + '.';
    }
  });

  /* What is shown follows the choices at the top. */
  var texts = {};
  function text(row) {
    var i = row.dataset.i;
    if (!texts[i]) texts[i] = (data.rows[i].id + ' ' + data.rows[i].about + ' ' + data.rows[i].source + ' ' + data.rows[i].notes).toLowerCase();
    return texts[i];
  }
  function apply() {
    var words = find.value.toLowerCase().split(/\s+/).filter(Boolean), kept = {}, count = 0, total = 0;
    blocks.forEach(function (block) { block.hidden = block.dataset.metric !== shown(); });
    all(document, '[data-metric]:not([hidden])').forEach(function (block) {
      var sets = all(block, '[data-set]'), has = sets.some(function (part) { return part.dataset.set === wanted(); });
      sets.forEach(function (part) { part.hidden = part.dataset.set !== (has ? wanted() : 'all'); });
    });
    all(document, '#rows [data-metric]:not([hidden]) tr[data-i]').forEach(function (row) {
      var on = (wanted() === 'all' || row.dataset.q === wanted()) && words.every(function (word) { return text(row).indexOf(word) >= 0; });
      row.hidden = !on;
      if (!on) close(row);
      kept[row.dataset.i] = on;
      total += 1;
      count += on;
    });
    all(document, '#scatter [data-metric]:not([hidden]) use[data-i]').forEach(function (at) { at.toggleAttribute('hidden', !kept[at.dataset.i]); });
    document.getElementById('found').textContent = count.toLocaleString('en') + ' of ' + total.toLocaleString('en') + (total === 1 ? ' row' : ' rows');
  }
  [metric, set].forEach(function (select) { if (select) select.addEventListener('change', apply); });
  find.addEventListener('input', apply);
  apply();
})();
