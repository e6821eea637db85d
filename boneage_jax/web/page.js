'use strict';

/* Images go to this server alone, one request a file and two at a time; results come back line by line. */
const AT_ONCE = 2;
const MOST = 240; // months on the scale
const SVG = 'http://www.w3.org/2000/svg';
const SEX = { True: 'boy', False: 'girl' };
const find = id => document.getElementById(id);
const token = new URLSearchParams(location.hash.slice(1)).get('token');
const uploads = [];
let running = 0;

function headers(more) {
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawn(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/* --- asking the server --- */

function add(files) {
  for (const file of files) {
    uploads.push({ file, name: free(file.name), sexes: {}, results: [], state: 'waiting', version: 0, only: null, look: false });
  }
  next();
}

/* Two files of one name are two images, also in the table. */
function free(name) {
  const taken = new Set(uploads.map(upload => upload.name));
  const [, stem, ending] = name.match(/^(.*?)(\.[^.]*)?$/s);
  let number = 1, tried = name;
  while (taken.has(tried)) tried = `${stem} (${++number})${ending ?? ''}`;
  return tried;
}

/* All of a file is asked again, or `only` one image of it; of that one also where the network looked. */
function again(upload, only = null, look = false) {
  const whole = upload.state !== 'done'; // what runs or waits is not cut down
  upload.version += 1;
  upload.state = 'waiting';
  upload.only = whole ? null : only;
  upload.look = !whole && look;
  next();
}

function next() {
  while (running < AT_ONCE) {
    const upload = uploads.find(each => each.state === 'waiting');
    if (!upload) break;
    upload.state = 'running';
    running += 1;
    send(upload).finally(() => { running -= 1; next(); });
  }
  tell();
}

async function send(upload) {
  const version = upload.version;
  const current = () => upload.version === version && uploads.includes(upload);
  const { only, look } = upload;
  const found = only ? [...upload.results] : [];
  const put = result => {
    const place = only ? found.findIndex(each => each.file === result.file) : -1;
    if (place < 0) found.push(result);
    else found[place] = result;
    upload.results = [...found];
    show();
  };
  try {
    const form = new FormData();
    form.append('sex', document.querySelector('[name=sex]:checked').value);
    form.append('sexes', JSON.stringify(upload.sexes));
    form.append('pictures', 'true');
    if (only) form.append('only', JSON.stringify([only]));
    if (look) form.append('look', 'true');
    form.append('images', upload.file, upload.name);
    const answer = await ask('/v1/predict', { Accept: 'application/x-ndjson' }, form);
    for await (const line of lines(answer.body)) {
      if (!current()) return;
      put(JSON.parse(line));
    }
    if (!found.length) put({ file: upload.name, status: 'unpredicted', code: 'no_image', reason: 'no image is in it', row: null });
    find('problem').textContent = '';
  } catch (error) {
    if (!current()) return;
    if (!only) put({ file: upload.name, status: 'unpredicted', code: 'failed', reason: error.message, row: null });
    find('problem').textContent = error.message;
  }
  if (current()) upload.state = 'done';
  show();
}

async function ask(path, more, body) {
  for (;;) {
    let answer;
    try {
      answer = await fetch(path, { method: 'POST', headers: headers(more), body });
    } catch (error) {
      throw new Error('The server does not answer. Is the program still running?');
    }
    if (answer.ok) return answer;
    if (answer.status !== 503) {
      const said = await answer.json().catch(() => ({}));
      throw new Error(said.error ?? `The server answered ${answer.status}.`);
    }
    const seconds = Number(answer.headers.get('Retry-After')) || 1;
    await new Promise(done => setTimeout(done, 1000 * Math.min(seconds, 30)));
  }
}

async function* lines(stream) {
  let rest = '';
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split('\n');
    rest = parts.pop();
    yield* parts;
  }
}

/* --- showing what it said --- */

function everything() {
  return uploads.flatMap(upload => upload.results.map(result => ({ upload, result })));
}

/* Only what changed is drawn anew, so that the focus stays where it is. */
function show() {
  const shown = everything();
  const focus = document.activeElement.closest('article');
  const old = new Map([...find('images').children].map(card => [card.result, card]));
  const cards = shown.map(each => old.get(each.result) ?? card(each));
  for (const [i, each] of cards.entries()) {
    if (find('images').children[i] !== each) find('images').insertBefore(each, find('images').children[i] ?? null);
  }
  while (find('images').children.length > cards.length) find('images').lastChild.remove();
  if (focus && !focus.isConnected) {
    cards.find(each => each.upload === focus.upload && each.result.file === focus.result.file)?.querySelector('select')?.focus();
  }
  find('rows').replaceChildren(...shown.map(({ result }) => line(result)));
  find('all').hidden = !shown.length;
  for (const box of document.querySelectorAll('#layers input')) {
    box.parentElement.hidden = !shown.some(({ result }) => result.view?.[box.dataset.of]);
  }
  find('download').disabled = !shown.some(({ result }) => result.row);
  tell();
}

function tell() {
  const shown = everything();
  const done = uploads.filter(upload => upload.state === 'done').length;
  if (!uploads.length) {
    find('status').textContent = '';
    return;
  }
  const last = shown.at(-1);
  let text = `${done} of ${uploads.length} files read.`;
  if (uploads.length === 1 && done && last) text = `${last.result.file}: ${heading(last.result)}.`;
  const failed = shown.filter(({ result }) => result.status !== 'ok').length;
  if (failed && shown.length > 1) text += ` ${failed} of ${shown.length} images without an age.`;
  find('status').textContent = text;
}

function heading(result) {
  if (result.status === 'ok') return result.row.years;
  if (result.code === 'sex_needed') return 'Girl or boy?';
  return `Not predicted: ${result.reason}`;
}

function remarks(result) {
  return result.flags ?? [];
}

function line(result) {
  const cells = result.cells;
  const ok = result.status === 'ok';
  const interval = ok && cells.lower ? `${Math.round(result.row.lower)} to ${Math.round(result.row.upper)}` : '';
  const texts = [
    cells ? SEX[cells.male] ?? '' : '', ok ? result.row.years : 'none',
    ok ? result.row.prediction.toFixed(1) : '', interval,
    [...(ok ? [] : [`${heading(result)}.`.replace('?.', '?')]), ...remarks(result)].join(' '),
  ];
  return element('tr', {}, element('th', { scope: 'row' }, result.file), ...texts.map(text => element('td', {}, text)));
}

function card({ upload, result }) {
  const made = element('article', {}, element('h3', {}, result.file));
  made.result = result;
  made.upload = upload;
  made.append(element('p', { class: result.status === 'ok' ? 'age' : 'age refused' }, heading(result)));
  if (result.status === 'ok') {
    const months = `${result.row.prediction.toFixed(1)} months`;
    made.append(element('p', {}, result.interval ? `${months}, ${result.interval}` : months));
  }
  if (['ok', 'refused'].includes(result.status) || ['sex_needed', 'other_sex'].includes(result.code)) made.append(chooser(upload, result));
  if (remarks(result).length) made.append(element('ul', {}, ...remarks(result).map(text => element('li', {}, text))));
  if (result.status === 'ok') made.append(scale(result));
  if (result.view) made.append(picture(result), ...looked(upload, result));
  return made;
}

/* What its maps say, or the way to one. */
function looked(upload, result) {
  if (result.status !== 'ok') return [];
  const map = result.view.maps?.at(-1);
  if (map) return [element('p', { class: 'soft' }, `Bright: ${map.title}.`)];
  const button = element('button', { type: 'button', 'aria-label': `Where did it look on ${result.file}?` }, 'Where did it look?');
  button.onclick = () => {
    button.disabled = true;
    find('status').textContent = `${result.file}: hides one place after another.`;
    again(upload, result.file, true);
  };
  return [element('p', {}, button)];
}

function chooser(upload, result) {
  const select = element('select', {});
  const own = upload.sexes[result.file] ?? { True: 'male', False: 'female' }[result.cells?.male] ?? '';
  for (const [value, text] of [['', 'not known'], ['female', 'girl'], ['male', 'boy']]) {
    select.append(element('option', { value }, text));
  }
  select.value = own;
  select.onchange = () => {
    if (select.value) upload.sexes[result.file] = select.value;
    else delete upload.sexes[result.file];
    again(upload, result.file);
  };
  return element('p', {}, element('label', {}, `Sex of ${result.file} `, select));
}

/* Two lanes, girls and boys, from 0 to 20 years: the age with its interval, and the nearest training images. */
function scale(result) {
  const row = result.row;
  const x = months => 42 + 270 * Math.min(Math.max(months, 0), MOST) / MOST;
  const y = male => male ? 46 : 20;
  const near = result.neighbours;
  const ages = near ? near.months.map((months, i) => `${Math.round(months / 1.2) / 10} (${near.male[i] ? 'boy' : 'girl'})`) : [];
  const label = `Scale from 0 to 20 years: ${row.years}${result.interval ? ', ' + result.interval : ''}.`
    + (near ? ` The five nearest training images have the ages ${ages.join(', ')} in years.` : '');
  const made = drawn('svg', { viewBox: '0 0 320 76', role: 'img', 'aria-label': label });
  for (const male of [false, true]) {
    made.append(drawn('text', { x: 0, y: y(male) + 4, class: 'axis' }, male ? 'boys' : 'girls'));
    made.append(drawn('line', { x1: x(0), x2: x(MOST), y1: y(male), y2: y(male), class: 'tick' }));
  }
  for (let years = 0; years <= 20; years += 4) {
    made.append(drawn('line', { x1: x(12 * years), x2: x(12 * years), y1: 12, y2: 54, class: 'tick' }));
    made.append(drawn('text', { x: x(12 * years), y: 70, class: 'axis', 'text-anchor': 'middle' }, `${years}`));
  }
  for (const [i, months] of (near?.months ?? []).entries()) {
    made.append(drawn('circle', { cx: x(months), cy: y(near.male[i]), r: 4, class: 'near' }));
  }
  const lanes = row.male === null ? [false, true] : [row.male];
  for (const male of lanes) {
    const kind = male ? 'boy' : 'girl';
    if (row.lower !== null) {
      made.append(drawn('line', { x1: x(row.lower), x2: x(row.upper), y1: y(male), y2: y(male), class: `${kind} interval` }));
    }
    const at = x(row.prediction);
    const shape = male ? drawn('path', { d: `M${at} ${y(male) - 6}l6 11h-12z`, class: kind }) : drawn('circle', { cx: at, cy: y(male), r: 5, class: kind });
    made.append(shape);
  }
  const box = element('div', {}, made);
  if (near) box.append(element('p', { class: 'soft' }, 'Rings: the ages of the five training images that look most alike to the network.'));
  return box;
}

function picture(result) {
  const view = result.view;
  const parts = [];
  if (view.outlines) parts.push('outline of the hand');
  if (view.points) parts.push('key points (' + Object.keys(view.points).join(', ') + ')');
  if (view.parts) parts.push('chosen parts');
  if (view.maps) parts.push('map of where the network looked');
  const label = `Radiograph ${result.file}` + (parts.length ? ', with ' + parts.join(', ') : '');
  const made = drawn('svg', { viewBox: `0 0 ${view.width} ${view.height}`, role: 'img', 'aria-label': label, class: 'picture' });
  const whole = { width: view.width, height: view.height };
  made.append(drawn('image', { href: view.picture, ...whole }));
  if (view.maps) made.append(drawn('image', { href: view.maps.at(-1).picture, ...whole, class: 'map' }));
  for (const outline of view.outlines ?? []) made.append(drawn('polygon', { points: outline.join(' '), class: 'outline' }));
  for (const part of view.parts ?? []) made.append(drawn('polygon', { points: part.join(' '), class: 'part' }));
  for (const [name, [x, y]] of Object.entries(view.points ?? {})) {
    const size = Math.max(view.width, view.height) / 60;
    made.append(drawn('path', { d: `M${x - size} ${y}h${2 * size}M${x} ${y - size}v${2 * size}`, class: 'point' }, drawn('title', {}, name)));
  }
  return made;
}

/* --- what a person does --- */

find('files').onchange = event => { add(event.target.files); event.target.value = ''; };
find('form').onsubmit = event => event.preventDefault();
for (const radio of document.querySelectorAll('[name=sex]')) {
  radio.onchange = () => uploads.forEach(upload => again(upload));
}
for (const name of ['dragenter', 'dragover']) {
  document.addEventListener(name, event => { event.preventDefault(); find('drop').classList.add('over'); });
}
for (const name of ['dragleave', 'drop']) {
  document.addEventListener(name, event => { event.preventDefault(); find('drop').classList.remove('over'); });
}
document.addEventListener('drop', event => add(event.dataTransfer.files));
find('layers').onchange = event => document.body.classList.toggle(`no-${event.target.value}`, !event.target.checked);
find('clear').onclick = () => { uploads.length = 0; find('problem').textContent = ''; show(); find('files').focus(); };

find('download').onclick = async () => {
  try {
    const rows = everything().filter(({ result }) => result.row).map(({ result }) => result.cells);
    const answer = await ask('/v1/table', { 'Content-Type': 'application/json' }, JSON.stringify({ rows }));
    const link = element('a', { href: URL.createObjectURL(await answer.blob()), download: 'ages.csv' });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  } catch (error) {
    find('problem').textContent = error.message;
  }
};

fetch('/v1/network', { headers: headers({}) }).then(async answer => {
  const about = await answer.json();
  if (!answer.ok) throw new Error(about.error);
  find('about').textContent = `Network: ${about.network}.`;
}).catch(error => { find('problem').textContent = error.message; });
