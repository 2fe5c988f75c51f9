'use strict';
// Draws the report out of the JSON in #data. Drawings are SVG that takes its colours from the style sheet, so that they follow
// the reader's theme and print; nothing is fetched.

const D = JSON.parse(document.getElementById('data').textContent);
const L = D.layers, E = L.length ? L[0].counts[0].length : 0;
const $ = id => document.getElementById(id);

// ---- numbers, colours, elements --------------------------------------------------------------------------------

const escaped = s => String(s).replace(/[&<>"]/g, c => ({'&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;'}[c]));
const number = (x, digits = 2) => x === null || x === undefined ? '-' : Number(x).toLocaleString('en', {maximumFractionDigits: digits});
// With all its digits, so that columns line up.
const fixed = (x, digits = 2) => x === null || x === undefined ? '-' : Number(x).toLocaleString('en', {minimumFractionDigits: digits, maximumFractionDigits: digits});
const percent = (x, digits = 1) => x === null || x === undefined ? '-' : fixed(100 * x, digits) + ' %';
const clamp = (x, low, high) => Math.max(low, Math.min(high, x));
const sum = list => list.reduce((a, b) => a + b, 0);
const mix = (a, b, t) => `color-mix(in oklab, var(${a}) ${Math.round(100 * clamp(t, 0, 1))}%, var(${b}))`;
const shade = t => mix('--high', '--low', t);
// Below zero to one colour, above to the other.
const twoSided = t => t < 0 ? mix('--less', '--low', -t) : mix('--high', '--low', t);
const expertColour = e => `oklch(0.72 0.13 ${(e * 137.508) % 360})`;

const svg = (width, height, body) => `<svg viewBox="0 0 ${width} ${height}" width="${width}" role="img">${body}</svg>`;
const rect = (x, y, w, h, more) => `<rect x="${x.toFixed(1)}" y="${y.toFixed(1)}" width="${Math.max(w, 0.5).toFixed(1)}" height="${Math.max(h, 0.5).toFixed(1)}" ${more}/>`;
const text = (x, y, what, anchor = 'middle', more = '') => `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}" ${more}>${escaped(what)}</text>`;
const tip = what => `data-tip="${escaped(what)}"`;
const table = (heads, rows) => '<table><tr>' + heads.map(h => `<th${h === 'chosen' ? ' class="text"' : ''}>${escaped(h)}</th>`).join('') + '</tr>' +
  rows.map(r => '<tr>' + r.map(c => typeof c === 'string' && c.startsWith('<td') ? c : `<td>${c}</td>`).join('') + '</tr>').join('') + '</table>';
const bar = (share, width = 90) => `<span class="bar" style="width:${(clamp(share, 0, 1) * width).toFixed(0)}px"></span>`;
const options = (select, list) => { select.innerHTML = list.map(([value, label]) => `<option value="${value}">${escaped(label)}</option>`).join(''); };
const scale = (low, high, colours) => `<div class="scale">${escaped(low)}<i style="background:linear-gradient(90deg,${colours})"></i>${escaped(high)}</div>`;
const onChange = (ids, draw) => { ids.forEach(id => $(id).addEventListener('change', draw)); draw(); };
const everyNth = (count, room) => Math.max(1, Math.ceil(count / room));

document.addEventListener('mousemove', event => {
  const owner = event.target.closest && event.target.closest('[data-tip]'), box = $('tip');
  if (!owner) { box.style.display = 'none'; return; }
  box.textContent = owner.dataset.tip;
  box.style.display = 'block';
  box.style.left = Math.min(event.clientX + 12, innerWidth - box.offsetWidth - 8) + 'px';
  box.style.top = (event.clientY + 16 + box.offsetHeight > innerHeight ? event.clientY - box.offsetHeight - 8 : event.clientY + 16) + 'px';
});

(function themes() {
  const names = ['auto', 'light', 'dark'];
  let chosen = 0;
  const show = () => { document.documentElement.className = chosen ? names[chosen] : ''; $('theme').textContent = 'theme: ' + names[chosen]; };
  $('theme').addEventListener('click', () => { chosen = (chosen + 1) % 3; show(); });
  show();
})();

// ---- head ------------------------------------------------------------------------------------------------------

(function head() {
  const z = D.zip;
  document.title = D.model + (z ? ': zipped' : ': routing profile');
  $('title').textContent = D.model;
  $('under').textContent = (z ? `${z.method}, ${percent(z.kept_expert_bytes)} of the experts' bytes kept. Below: the original's routing of ` : 'Routing of ') +
    `${number(D.tokens, 0)} tokens of ${D.files.length} text${D.files.length > 1 ? 's' : ''} through ${L.length} MoE layers of ${E} experts`;
  const tiles = z ? [
    [number(z.parameters / 1e6, 1) + ' M', `parameters; ${number(z.parameters_before / 1e6, 1)} M before`],
    [number(z.active_parameters / 1e6, 1) + ' M', `active for a token; ${number(z.active_parameters_before / 1e6, 1)} M before`],
    [percent(sum(z.layers.map(l => l.error || 0)) / Math.max(1, z.layers.length), 2), 'mean error of a block on held-out text'],
    ['x ' + fixed(z.speed_bound, 3), 'decoding at most, one token at a time'],
  ] : [
    [percent(D.expert_share), 'of the active parameters are in experts'],
    [percent(D.matched_partner_p), 'p: matched partners active together'],
    ['x ' + fixed(D.speed_bound, 3), 'at most, by sharing rows of matched pairs'],
    [number(sum(L.map(l => l.silent_experts)), 0), 'experts no token went to'],
  ];
  $('tiles').innerHTML = tiles.map(t => `<div class="tile"><b>${t[0]}</b><span>${t[1]}</span></div>`).join('');
})();

// ---- what zip made ---------------------------------------------------------------------------------------------

// The end of an axis of four parts.
function roundedUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 1.2, 2, 2.4, 3.2, 4, 6, 8, 10].find(step => step * power >= value * (1 - 1e-9));
}

// Groups of bars on a common axis; series: [{name, colour, values}].
function barChart(title, labels, series, format) {
  const W = 480, H = 230, left = 52, top = 26, bottom = 34, width = W - left - 8, height = H - top - bottom;
  const highest = roundedUp(Math.max(1e-12, ...series.flatMap(s => s.values.map(v => v || 0)))), slot = width / labels.length, w = Math.min(22, slot * 0.8 / series.length);
  let body = '';
  for (let i = 0; i <= 4; i++) {
    const y = top + height * (1 - i / 4);
    body += `<line x1="${left}" x2="${W - 8}" y1="${y}" y2="${y}" stroke="var(--line)"/>` + text(left - 6, y + 4, format(highest * i / 4), 'end');
  }
  series.forEach((s, k) => {
    body += rect(left + k * 150, 4, 10, 10, `rx="2" fill="${s.colour}"`) + text(left + 15 + k * 150, 13, s.name, 'start');
    s.values.forEach((v, i) => {
      const h = height * (v || 0) / highest, x = left + slot * (i + 0.5) + w * (k - series.length / 2);
      body += rect(x, top + height - h, w - 1, h, `rx="1.5" fill="${s.colour}" ${tip(`layer ${labels[i]}: ${s.name} ${format(v)}`)}`);
    });
  });
  const step = everyNth(labels.length, 24);
  labels.forEach((l, i) => { if (i % step === 0) body += text(left + slot * (i + 0.5), H - bottom + 16, l); });
  return `<h3>${escaped(title)}</h3>` + svg(W, H - 12, body);
}

if (D.zip) (function made() {
  const z = D.zip, labels = z.layers.map(l => l.layer), worst = Math.max(...z.layers.map(l => l.unfitted_error || 0)), fine = v => percent(v, worst < 0.002 ? 3 : 2);
  $('zip').hidden = false;
  $('errors').innerHTML = barChart('error of the block, by layer', labels, [
    {name: 'before the refit', colour: mix('--accent', '--low', 0.55), values: z.layers.map(l => l.unfitted_error)},
    {name: 'after', colour: 'var(--accent)', values: z.layers.map(l => l.error)}], fine);
  const least = z.layers.map(l => Math.min(...l.tokens)), median = z.layers.map(l => [...l.tokens].sort((a, b) => a - b)[l.tokens.length >> 1]);
  $('energy').innerHTML = barChart('calibration tokens an expert saw, by layer', labels, [
    {name: 'the least', colour: mix('--high', '--low', 0.5), values: least}, {name: 'the median', colour: 'var(--high)', values: median}], v => number(v, 0));
  $('made').innerHTML = table(['layer', 'kept', 'error', 'before refit', 'recovered', 'short of text', 'chosen'], z.layers.map(l => [l.layer, percent(l.kept), fine(l.error), fine(l.unfitted_error),
    l.recovery_error === null ? '-' : percent(1 - l.recovery_error), l.starved ? `<span class="warn">${l.starved}</span>` : 0, `<td class="text">${escaped(l.note)}</td>`]));
})();

// ---- where tokens go -------------------------------------------------------------------------------------------

options($('text'), [...(D.files.length > 1 ? [[-1, 'all texts']] : []), ...D.files.map((f, i) => [i, `${f.name} (${number(f.tokens, 0)})`])]);
if (D.files.length < 2) $('what').querySelector('[value=apart]').remove();

// A statistic of every expert of a layer, of one text or of all.
function rowOf(layer, what, file) {
  const rows = layer[what];
  if (file >= 0) return rows[file];
  if (what !== 'output_norm') return rows[0].map((_, e) => sum(rows.map(r => r[e])));
  return rows[0].map((_, e) => {
    const tokens = sum(layer.counts.map(c => c[e]));
    return tokens ? sum(rows.map((r, s) => r[e] * layer.counts[s][e])) / tokens : 0;
  });
}
const shares = row => { const total = sum(row) || 1; return row.map(v => v / total); };

// Cells of a layer: [value for the shade, tip].
function cellsOf(layer, what, file) {
  if (what === 'apart') {
    const own = shares(rowOf(layer, 'counts', file)), all = shares(rowOf(layer, 'counts', -1));
    return own.map((v, e) => {
      const times = (v + 1e-4) / (all[e] + 1e-4);
      return [Math.log2(times) / 2, `${number(times)} times its share over all texts`];
    });
  }
  const row = rowOf(layer, what, file);
  if (what === 'output_norm') { const top = Math.max(...row) || 1; return row.map(v => [v / top, `mean length of g y: ${number(v, 4)}`]); }
  return shares(row).map(v => [v * E / 2, percent(v, 2) + (what === 'counts' ? ' of the assignments' : ' of the gates')]);
}

function heatMap() {
  const chosen = +$('text').value, what = $('what').value, apart = what === 'apart', byLoad = $('order').value === 'load';
  // Apart from the others there is one map a text.
  const files = apart && chosen < 0 ? D.files.map((_, i) => i) : [chosen];
  const room = files.length > 1 ? 480 : 980, cw = clamp((room - 40) / E, files.length > 1 ? 3 : 8, 34), ch = clamp(520 / L.length, 12, 26);
  const maps = files.map(file => {
    let body = '';
    L.forEach((l, y) => {
      const cells = cellsOf(l, what, file), order = cells.map((_, e) => e);
      if (byLoad) { const load = rowOf(l, 'counts', -1); order.sort((a, b) => load[b] - load[a]); }
      body += text(30, y * ch + ch / 2 + 4, l.label, 'end');
      order.forEach((e, x) => {
        const [value, about] = cells[e];
        body += rect(36 + x * cw, y * ch, cw - (cw > 5 ? 1 : 0), ch - 1, `rx="${cw > 7 ? 2 : 0}" fill="${apart ? twoSided(value) : shade(value)}" ${tip(`layer ${l.label}, expert ${e}\n${about}`)}`);
      });
    });
    if (!byLoad) for (let e = 0, step = everyNth(E, files.length > 1 ? 12 : 24); e < E; e += step) body += text(36 + e * cw + cw / 2, L.length * ch + 13, e);
    return (files.length > 1 ? `<h3>${escaped(D.files[file].name)}</h3>` : '') + svg(40 + E * cw, L.length * ch + 18, body);
  });
  const ends = apart ? scale('a quarter of the share over all texts', 'four times', 'var(--less),var(--low),var(--high)')
    : what === 'output_norm' ? scale('0', 'the longest of the layer', 'var(--low),var(--high)') : scale('0', 'twice the mean and more', 'var(--low),var(--high)');
  $('heat').innerHTML = (files.length > 1 ? `<div class="beside">${maps.map(m => `<div>${m}</div>`).join('')}</div>` : maps[0]) + ends;
}
onChange(['text', 'what', 'order'], heatMap);

(function load() {
  const busiest = Math.max(...L.map(l => l.load_max_over_mean));
  $('load').innerHTML = table(['layer', 'busiest / mean', 'spread', 'silent', ...D.files.map(f => 'entropy, ' + f.name)], L.map(l => [l.label,
    bar(l.load_max_over_mean / busiest) + fixed(l.load_max_over_mean), fixed(l.load_variation),
    l.silent_experts ? `<span class="warn">${l.silent_experts}</span>` : 0,
    ...l.entropy.map(x => bar(x / Math.log(E), 60) + fixed(x, 3))]));
})();

// ---- which experts fire together -------------------------------------------------------------------------------

options($('layer'), L.map((l, i) => [i, l.label]));

function matrix(l, what) {
  const m = l[what], cell = 420 / E, others = m.flatMap((r, i) => r.filter((_, j) => i !== j)).sort((a, b) => a - b);
  // The strongest hundredth would leave all others in one shade.
  const high = Math.max(others[Math.floor(0.99 * (others.length - 1))] || 0, 1e-9), low = Math.min(0, others[0] || 0);
  let body = '';
  m.forEach((r, i) => r.forEach((v, j) => {
    if (i !== j) body += rect(24 + j * cell, i * cell, cell - 0.5, cell - 0.5, `fill="${shade((v - low) / (high - low))}" ${tip(`experts ${i} and ${j}: ${number(v, 3)}`)}`);
  }));
  l.matching.filter(p => p.length === 2).forEach(([i, j]) => [[i, j], [j, i]].forEach(([a, b]) => {
    body += rect(24 + b * cell, a * cell, cell, cell, 'fill="none" stroke="var(--accent)" stroke-width="1.6" pointer-events="none"');
  }));
  for (let e = 0, step = everyNth(E, 16); e < E; e += step) body += text(19, e * cell + cell / 2 + 4, e, 'end') + text(24 + e * cell + cell / 2, 434, e);
  return svg(448, 440, body) + scale(number(low), number(high) + ' and more', 'var(--low),var(--high)');
}

function ring(l) {
  const R = 165, C = 215, angle = e => 2 * Math.PI * e / E - Math.PI / 2, at = (e, r = R) => [C + r * Math.cos(angle(e)), C + r * Math.sin(angle(e))];
  const load = rowOf(l, 'counts', -1), busiest = Math.max(...load) || 1, ties = [];
  for (let i = 0; i < E; i++) for (let j = i + 1; j < E; j++) if (l.lift[i][j] > 0) ties.push([l.lift[i][j], i, j]);
  ties.sort((a, b) => b[0] - a[0]);
  const line = (i, j, colour, width, opacity) => {
    const [x, y] = at(i), [u, v] = at(j);
    return `<path d="M${x.toFixed(1)} ${y.toFixed(1)}Q${C} ${C} ${u.toFixed(1)} ${v.toFixed(1)}" fill="none" stroke="${colour}" stroke-width="${width}" opacity="${opacity.toFixed(2)}" ${tip(`experts ${i} and ${j}\nlift ${number(l.lift[i][j])}, ${number(l.together[i][j], 0)} tokens together`)}/>`;
  };
  let body = ties.slice(0, 2 * E).reverse().map(([v, i, j]) => line(i, j, 'var(--high)', 1.1, 0.1 + 0.5 * v / ties[0][0])).join('');
  body += l.matching.filter(p => p.length === 2).map(([i, j]) => line(i, j, 'var(--accent)', 2.6, 0.95)).join('');
  for (let e = 0; e < E; e++) {
    const [x, y] = at(e), radius = 2 + (E > 40 ? 4 : 8) * Math.sqrt(load[e] / busiest);
    body += `<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="${radius.toFixed(1)}" fill="var(--high)" stroke="var(--panel)" stroke-width="1.5" ${tip(`expert ${e}: ${number(load[e], 0)} tokens`)}/>`;
    if (E <= 72) { const [u, v] = at(e, R + 21); body += text(u, v + 4, e); }
  }
  return svg(430, 430, body);
}

onChange(['layer', 'matrix'], () => {
  const l = L[+$('layer').value];
  $('square').innerHTML = matrix(l, $('matrix').value);
  $('ring').innerHTML = ring(l);
});

// ---- what a grouping could gain --------------------------------------------------------------------------------

options($('gains'), [[-1, 'mean of all'], ...L.map((l, i) => [i, l.label])]);
onChange(['gains'], () => {
  const chosen = +$('gains').value, layers = chosen < 0 ? L : [L[chosen]], s = D.expert_share;
  const rows = L.length ? L[0].groupings.map((g, k) => {
    const touched = sum(layers.map(l => l.groupings[k].touched)) / layers.length;
    return {label: `${g.by}, ${g.size === 2 ? 'pairs' : 'groups of ' + g.size}`, bound: 1 / (1 - s * (1 - touched) * 2 / 3), about: `a token's experts lie in ${percent(touched)} as many groups`, colour: 'var(--high)'};
  }) : [];
  for (const kept of [0.9, 0.75, 0.5]) rows.push({label: `no groups, experts ${percent(kept, 0)} as wide`, bound: 1 / (1 - s * (1 - kept)), about: 'reads so much less for every token', colour: 'var(--accent)'});
  const H = 24, left = 218, width = 560, most = Math.max(...rows.map(r => r.bound)) - 1;
  $('groupings').innerHTML = svg(left + width + 70, rows.length * H + 4, rows.map((r, y) => text(left - 10, y * H + 15, r.label, 'end', 'class="strong"') +
    rect(left, y * H + 3, width * (r.bound - 1) / most, H - 8, `rx="2" fill="${r.colour}" ${tip(r.about)}`) + text(left + width * (r.bound - 1) / most + 7, y * H + 15, 'x ' + fixed(r.bound, 3), 'start')).join(''));
});

$('redundancy').innerHTML = table(['layer', 'p, matching', 'p, best partner', 'bound of pairs', 'shared mean', '1/E', 'rank90'], L.map(l => [l.label, percent(l.matched_partner_p),
  percent(l.best_partner_p), 'x ' + fixed(l.speed_bound, 3), percent(l.shared_mean_energy), percent(1 / E), percent(l.rank90_share)]));

// ---- how few neurons do the work -------------------------------------------------------------------------------

(function curves() {
  const W = 760, H = 320, left = 50, top = 10, width = W - 66, height = H - 54;
  let body = '';
  for (let i = 0; i <= 4; i++) {
    const y = top + height * (1 - i / 4), x = left + width * i / 4;
    body += `<line x1="${left}" x2="${left + width}" y1="${y}" y2="${y}" stroke="var(--line)"/>` + text(left - 7, y + 4, 25 * i + ' %', 'end') + text(x, top + height + 18, 25 * i + ' %');
  }
  if (D.zip && D.zip.width_share < 1) {
    const x = left + width * D.zip.width_share;
    body += `<line x1="${x}" x2="${x}" y1="${top}" y2="${top + height}" stroke="var(--ink)" stroke-dasharray="4 4"/>` + text(x - 6, top + height - 8, 'kept', 'end', 'class="strong"');
  }
  L.forEach((l, k) => {
    const path = l.curve.map((v, i) => `${i ? 'L' : 'M'}${(left + width * i / (l.curve.length - 1)).toFixed(1)} ${(top + height * (1 - v)).toFixed(1)}`).join('');
    const about = [0.25, 0.5, 0.75].map(q => `${percent(q, 0)} of the neurons hold ${percent(l.curve[Math.round(q * (l.curve.length - 1))])}`).join('\n');
    body += `<path d="${path}" fill="none" stroke="${mix('--accent', '--high', L.length > 1 ? k / (L.length - 1) : 0)}" stroke-width="2" ${tip(`layer ${l.label}\n${about}`)}/>`;
  });
  $('curves').innerHTML = svg(W, H, body + text(left + width / 2, H - 4, 'neurons of an expert, most important first'));
})();

// ---- token by token --------------------------------------------------------------------------------------------

const samples = D.samples || [];
if (samples.length) (function reading() {
  $('reading').hidden = false;
  options($('sample'), samples.map((s, i) => [i, D.files[s.file].name]));
  options($('depth'), L.map((l, i) => [i, l.label]));
  $('depth').value = L.length >> 1;
  options($('rank'), samples[0].experts[0][0].map((_, k) => [k, k ? `number ${k + 1} by weight` : 'the heaviest']));
  const shown = new Set();
  onChange(['sample', 'depth', 'rank'], () => {
    const s = samples[+$('sample').value], depth = +$('depth').value, rank = +$('rank').value, here = s.experts[depth], counts = new Array(E).fill(0);
    here.forEach(chosen => counts[chosen[rank]]++);
    $('tokens').innerHTML = s.pieces.map((piece, n) => {
      const e = here[n][rank], about = s.experts.map((layer, i) => `layer ${L[i].label}: ${layer[n].join(', ')}`);
      const lines = about.length > 14 ? [...about.slice(Math.max(0, depth - 6), depth + 7), '...'] : about;
      return `<span data-expert="${e}" style="background:color-mix(in oklab, ${expertColour(e)} 42%, var(--panel))" ${tip(lines.join('\n'))}>${escaped(piece)}</span>`;
    }).join('');
    const filter = () => {
      document.querySelectorAll('#tokens span').forEach(span => span.classList.toggle('off', shown.size > 0 && !shown.has(+span.dataset.expert)));
      document.querySelectorAll('#chips button').forEach(chip => chip.classList.toggle('on', shown.has(+chip.dataset.expert)));
    };
    const busiest = counts.map((c, e) => [c, e]).filter(([c]) => c).sort((a, b) => b[0] - a[0]);
    $('chips').innerHTML = busiest.map(([c, e]) => `<button data-expert="${e}" style="background:color-mix(in oklab, ${expertColour(e)} 42%, var(--panel))" ${tip(`expert ${e}: ${c} tokens of this text`)}>${e}</button>`).join('');
    document.querySelectorAll('#chips button').forEach(chip => chip.addEventListener('click', () => {
      const e = +chip.dataset.expert;
      if (!shown.delete(e)) shown.add(e);
      filter();
    }));
    filter();
  });
})();
