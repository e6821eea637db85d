// An exported ONNX file in a browser: image files to grey, as examples/bone_age.py reads them, and grey to an age.
// Nothing here judges whether an image shows a hand; bones must be bright and fingers up.

const DEPTHS = [8, 10, 12, 14, 16];
const PNG = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const MOST_PIXELS = 89478485;

/** A Blob of an image file as grey: {data: Uint8Array, width, height}. PNG, JPEG and BMP; throws an Error for others.
 *  The greys are those of Python, but for images with transparency, where a canvas may be off by one. */
export async function decode(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  if (PNG.every((value, at) => bytes[at] === value) && bytes[24] === 16) {
    return deepPng(bytes);
  }
  // Pixels as they are stored: no colour profile, no gamma.
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: 'none', premultiplyAlpha: 'none' });
  const { width, height } = bitmap;
  if (width * height > MOST_PIXELS) {
    throw new Error(`${width} x ${height} pixels are too many; save the image smaller`);
  }
  const context = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { data: luma(context.getImageData(0, 0, width, height).data), width, height };
}

/** RGBA to ITU-R 601 luma in whole numbers, as Pillow has it; transparency over black, one alpha everywhere ignored. */
export function luma(rgba) {
  const grey = new Uint8Array(rgba.length / 4);
  const oneAlpha = rgba.every((value, at) => at % 4 !== 3 || value === rgba[3]);
  for (let at = 0; at < grey.length; at++) {
    const [red, green, blue, alpha] = rgba.subarray(4 * at, 4 * at + 4);
    const value = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
    grey[at] = oneAlpha ? value : halfToEven((value * alpha) / 255);
  }
  return grey;
}

/** A PNG of 16 bits: a canvas would keep 8 of them, which leaves an image of 12 bits all but black. */
async function deepPng(bytes) {
  const view = new DataView(bytes.buffer);
  const width = view.getUint32(16);
  const height = view.getUint32(20);
  if (bytes[25] !== 0 || bytes[28] !== 0 || width * height > MOST_PIXELS) {
    throw new Error('a PNG of 16-bit colour, interlaced, or too large: save it as grey of 8 or 16 bits');
  }
  const parts = [];
  for (let at = 8; at + 12 <= bytes.length; at += 12 + view.getUint32(at)) {
    if (String.fromCharCode(...bytes.subarray(at + 4, at + 8)) === 'IDAT') {
      parts.push(bytes.subarray(at + 8, at + 8 + view.getUint32(at)));
    }
  }
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream('deflate'));
  const lines = new Uint8Array(await new Response(stream).arrayBuffer());
  return { data: scaled(unfiltered(lines, width, height)), width, height };
}

/** The lines of a grey 16-bit PNG without their filters: Uint16Array. */
function unfiltered(lines, width, height) {
  const length = 2 * width;
  let above = new Uint8Array(length);
  const values = new Uint16Array(width * height);
  for (let row = 0; row < height; row++) {
    const filter = lines[row * (length + 1)];
    const line = lines.subarray(row * (length + 1) + 1, (row + 1) * (length + 1));
    for (let at = 0; at < length; at++) {
      const left = at < 2 ? 0 : line[at - 2];
      const corner = at < 2 ? 0 : above[at - 2];
      const guess = [0, left, above[at], (left + above[at]) >> 1, paeth(left, above[at], corner)][filter];
      line[at] += guess;
    }
    for (let column = 0; column < width; column++) {
      values[row * width + column] = (line[2 * column] << 8) | line[2 * column + 1];
    }
    above = line;
  }
  return values;
}

function paeth(left, above, corner) {
  const [toLeft, toAbove, toCorner] = [above - corner, left - corner, left + above - 2 * corner].map(Math.abs);
  if (toLeft <= toAbove && toLeft <= toCorner) return left;
  return toAbove <= toCorner ? above : corner;
}

/** Values of up to 16 bits by the least depth that holds the largest. */
export function scaled(values) {
  const largest = values.reduce((most, value) => Math.max(most, value), 0);
  const depth = DEPTHS.find((bits) => largest < 2 ** bits);
  const factor = Math.fround(255 / (2 ** depth - 1));
  return Uint8Array.from(values, (value) => halfToEven(Math.fround(value * factor)));
}

function halfToEven(value) {
  const down = Math.floor(value);
  const rest = value - down;
  return down + (rest > 0.5 || (rest === 0.5 && down % 2 === 1) ? 1 : 0);
}

/** A grey image as its negative, and turned by quarters against the clock. */
export function righted(image, { inverted = false, turns = 0 } = {}) {
  let { data, width, height } = image;
  if (inverted) data = data.map((value) => 255 - value);
  for (let turn = 0; turn < turns; turn++) {
    const turned = new Uint8Array(data.length);
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        turned[(width - 1 - column) * height + row] = data[row * width + column];
      }
    }
    [data, width, height] = [turned, height, width];
  }
  return { data, width, height };
}

/** {months, lower, upper, seen} of a grey image. `ort` is onnxruntime-web, `session` its InferenceSession of the file. */
export async function age(ort, session, image, male) {
  const found = await session.run({
    image: new ort.Tensor('uint8', image.data, [image.height, image.width]),
    male: new ort.Tensor('bool', Uint8Array.of(male ? 1 : 0), []),
  });
  const [height, width] = found.seen.dims;
  const months = { months: found.months.data[0], seen: { data: found.seen.data, width, height } };
  return found.lower ? { ...months, lower: found.lower.data[0], upper: found.upper.data[0] } : months;
}

/** The texts that an ONNX file has about itself, by key: field 14 of the message that it is. */
export function metadata(buffer) {
  const texts = {};
  for (const [field, entry] of fields(new Uint8Array(buffer))) {
    if (field === 14) {
      const [key, value] = [...fields(entry)].map(([, text]) => new TextDecoder().decode(text));
      texts[key] = value ?? '';
    }
  }
  return texts;
}

/** [number, bytes] of each field of a protobuf message that has bytes. */
function* fields(bytes) {
  let at = 0;
  const number = () => {
    let value = 0;
    for (let shift = 1; ; shift *= 128) {
      value += (bytes[at] & 127) * shift;
      if (bytes[at++] < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = number();
    const kind = tag % 8;
    if (kind === 0) number();
    else if (kind === 2) {
      const length = number();
      yield [Math.floor(tag / 8), bytes.subarray(at, at + length)];
      at += length;
    } else at += kind === 1 ? 8 : 4;
  }
}
