// The page: loads onnxruntime-web and the network from beside it, and shows the age of each image that is given.
import { age, decode, metadata, righted } from './reader.mjs';

const LIBRARY = './node_modules/onnxruntime-web/dist/';
const MODEL = './bone_age.onnx';
const byId = (id) => document.getElementById(id);
const say = (text) => { byId('status').textContent = text; };

async function load() {
  const ort = await import(`${LIBRARY}ort.wasm.min.mjs`).catch(() => {
    throw new Error('onnxruntime-web is not here: npm install onnxruntime-web in this folder.');
  });
  ort.env.wasm.wasmPaths = new URL(LIBRARY, document.baseURI).href;
  ort.env.wasm.numThreads = 1; // more need headers that a plain server does not send
  const answer = await fetch(MODEL);
  if (!answer.ok) {
    throw new Error('The network is not here: boneage export --workdir=bone_age --format=onnx --output=bone_age.onnx in this folder.');
  }
  const buffer = await answer.arrayBuffer();
  const about = JSON.parse(metadata(buffer).about ?? '{}');
  byId('about').textContent = Object.entries(about).map(([name, text]) => `${name}: ${text}`).join('\n\n');
  return { ort, session: await ort.InferenceSession.create(buffer) };
}

function inWords(months) {
  const whole = Math.round(months);
  return `${Math.floor(whole / 12)} years ${whole % 12} months`;
}

function drawn(seen) {
  const canvas = document.createElement('canvas');
  canvas.width = seen.width;
  canvas.height = seen.height;
  const pixels = new ImageData(seen.width, seen.height);
  seen.data.forEach((grey, at) => pixels.data.set([grey, grey, grey, 255], 4 * at));
  canvas.getContext('2d').putImageData(pixels, 0, 0);
  canvas.setAttribute('role', 'img');
  canvas.setAttribute('aria-label', 'what the network sees');
  return canvas;
}

function add(name, text, details, picture) {
  const item = document.createElement('li');
  const words = document.createElement('div');
  for (const [kind, line] of [['name', name], ['age', text], ['details', details]]) {
    const part = document.createElement('div');
    part.className = kind;
    part.textContent = line;
    words.append(part);
  }
  item.append(...(picture ? [picture] : []), words);
  byId('results').prepend(item);
}

async function show({ ort, session }, file, male) {
  try {
    const image = righted(await decode(file), {
      inverted: byId('inverted').checked,
      turns: Number(byId('turns').value),
    });
    const started = performance.now();
    const found = await age(ort, session, image, male);
    const took = `${Math.round(performance.now() - started)} ms`;
    const interval = found.lower === undefined ? '' : `, 90% interval ${found.lower.toFixed(1)} to ${found.upper.toFixed(1)}`;
    add(file.name, inWords(found.months), `${found.months.toFixed(3)} months${interval}; ${took}`, drawn(found.seen));
  } catch (error) {
    add(file.name, 'not read', error.message);
  }
}

const loaded = load();
loaded.then(() => say('Ready.'), (error) => say(error.message));

let last = loaded.catch(() => {});
function take(files) {
  const sex = document.querySelector('input[name=sex]:checked');
  if (!sex) return say('Say first whether it is a girl or a boy.');
  for (const file of files) {
    last = last.then(async () => show(await loaded, file, sex.value === 'male')).catch((error) => say(error.message));
  }
  last = last.then(() => say('Ready.'));
}

byId('files').addEventListener('change', (event) => { take([...event.target.files]); event.target.value = ''; });
for (const kind of ['dragover', 'dragleave', 'drop']) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId('drop').classList.toggle('over', kind === 'dragover');
    if (kind === 'drop') take([...event.dataTransfer.files]);
  });
}
