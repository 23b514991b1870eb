// Reads the page's figures: base64 of a zlib stream, laid out as tracer/nativeleak/reports/html/columns.py says.

const TYPES = {
  u8: Uint8Array, i8: Int8Array, u16: Uint16Array, i16: Int16Array, u32: Uint32Array, i32: Int32Array, f64: Float64Array,
};

export async function readData(element) {
  const packed = fromBase64(element.textContent);
  element.remove();
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = new Uint8Array(await new Response(stream).arrayBuffer());
  const length = new DataView(raw.buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(raw.subarray(4, 4 + length)));
  const columns = {};
  let at = 4 + length;
  for (const [name, type, n] of head.columns) {
    const array = TYPES[type];
    const size = n * array.BYTES_PER_ELEMENT;
    columns[name] = new array(raw.slice(at, at + size).buffer);
    at += size;
  }
  return new Profile(head.facts, columns);
}

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

// The courses of all sites: for each moment the sum of the changes up to it.
function cumulated(deltas, nMoments, nSites) {
  const values = new Float64Array(nMoments * nSites);
  for (let i = 0; i < values.length; i++) values[i] = deltas[i] + (i >= nSites ? values[i - nSites] : 0);
  return values;
}

export class Profile {
  constructor(facts, columns) {
    Object.assign(this, facts);
    this.columns = columns;
    this.nSites = columns.site_stack.length;
    this.nStacks = columns.stack_length.length;
    this.nSteps = columns.step_name.length;
    this.nRows = columns.row_bytes.length;
    // Moment 0 is the start of the trace: nothing was outstanding yet.
    this.moments = [0, ...columns.moments];
    this.courses = {};
    this.starts = new Uint32Array(this.nStacks + 1);
    for (let i = 0; i < this.nStacks; i++) this.starts[i + 1] = this.starts[i] + columns.stack_length[i];
  }

  stepName(step) {
    return this.strings[this.columns.step_name[step]];
  }

  stepPlace(step) {
    return this.strings[this.columns.step_place[step]];
  }

  stepGroup(step) {
    return this.groups[this.columns.step_group[step]];
  }

  // Steps of a stack, leaf first.
  steps(stack) {
    return this.columns.stack_steps.subarray(this.starts[stack], this.starts[stack + 1]);
  }

  course(name) {
    this.courses[name] ??= cumulated(this.columns[name], this.columns.moments.length, this.nSites);
    return this.courses[name];
  }

  // A course's value of a site at a moment.
  #at(course, moment, site) {
    return moment === 0 ? 0 : course[(moment - 1) * this.nSites + site];
  }

  // The figure of every site between two moments. mask: the sites that count, or null for all.
  values(metric, from, to, mask) {
    const result = new Float64Array(this.nSites);
    const bytes = this.course("bytes");
    const blocks = metric === "count" ? this.course("blocks") : null;
    const added = metric === "allocated" || metric === "freed" ? this.course("added") : null;
    const resident = metric === "resident" ? this.course("resident") : null;
    for (let site = 0; site < this.nSites; site++) {
      if (mask && !mask[site]) continue;
      const grown = this.#at(bytes, to, site) - this.#at(bytes, from, site);
      switch (metric) {
        case "outstanding": result[site] = this.#at(bytes, to, site); break;
        case "growth": result[site] = grown; break;
        case "resident": result[site] = this.#at(resident, to, site); break;
        case "count": result[site] = this.#at(blocks, to, site); break;
        case "allocated": result[site] = this.#at(added, to, site) - this.#at(added, from, site); break;
        case "freed": result[site] = this.#at(added, to, site) - this.#at(added, from, site) - grown; break;
        case "lifetime": result[site] = this.#heldSeconds(bytes, from, to, site); break;
      }
    }
    return result;
  }

  // Bytes times the seconds they were held, between two moments.
  #heldSeconds(bytes, from, to, site) {
    let sum = 0;
    for (let i = from; i < to; i++) {
      const mean = (this.#at(bytes, i, site) + this.#at(bytes, i + 1, site)) / 2;
      sum += mean * (this.moments[i + 1] - this.moments[i]);
    }
    return sum;
  }

  // The moment nearest to a time.
  momentAt(seconds) {
    let best = 0;
    for (let i = 1; i < this.moments.length; i++) {
      if (Math.abs(this.moments[i] - seconds) < Math.abs(this.moments[best] - seconds)) best = i;
    }
    return best;
  }
}
