/* Contents that follow the reader, and the buttons of the run file. */
(function () {
  'use strict';
  var contents = document.querySelector('nav.toc details');
  if (contents && innerWidth < 1060) contents.open = false;

  var links = [].slice.call(document.querySelectorAll('nav.toc a'));
  var observer = new IntersectionObserver(function (entries) {
    entries.forEach(function (entry) {
      if (!entry.isIntersecting) return;
      links.forEach(function (link) {
        var on = link.hash === '#' + entry.target.id;
        link.classList.toggle('here', on);
        if (on) link.setAttribute('aria-current', 'true'); else link.removeAttribute('aria-current');
      });
    });
  }, { rootMargin: '-10% 0px -75% 0px' });
  document.querySelectorAll('main section[id], main header[id]').forEach(function (part) { observer.observe(part); });

  function text(id) { return document.getElementById(id).textContent; }

  document.querySelectorAll('[data-copy]').forEach(function (button) {
    button.addEventListener('click', function () {
      var area = document.createElement('textarea'), done = function (ok) { button.textContent = ok ? 'Copied' : 'Not copied'; };
      if (navigator.clipboard) {
        navigator.clipboard.writeText(text(button.dataset.copy)).then(function () { done(true); }, function () { done(false); });
        return;
      }
      area.value = text(button.dataset.copy);
      document.body.appendChild(area);
      area.select();
      done(document.execCommand('copy'));
      area.remove();
    });
  });

  document.querySelectorAll('[data-save]').forEach(function (button) {
    button.addEventListener('click', function () {
      var link = document.createElement('a');
      link.href = URL.createObjectURL(new Blob([text(button.dataset.from)], { type: 'text/yaml' }));
      link.download = button.dataset.save;
      link.click();
      setTimeout(function () { URL.revokeObjectURL(link.href); }, 1000);
    });
  });
})();
