// A tree of calls from the sites' stacks, in preorder: a parent comes before its children.

const HIDDEN = new Set(["library", "runtime", "plumbing", "kernel"]);

// Stacks as the settings show them, root first: leaf first if they are inverted.
export class Stacks {
  constructor(profile, { fold, hide, invert }) {
    const lengths = profile.columns.stack_length;
    const steps = new Int32Array(profile.columns.stack_steps.length);
    this.starts = new Uint32Array(lengths.length + 1);
    const hidden = hide ? hiddenSteps(profile) : null;
    let at = 0;
    for (let stack = 0; stack < lengths.length; stack++) {
      let shown = Array.from(profile.steps(stack));
      if (hidden) {
        const kept = shown.filter((step) => !hidden[step]);
        const head = profile.columns.stack_head[stack];
        shown = kept.length ? kept : head >= 0 ? [head] : shown.slice(0, 1);
      }
      if (fold) shown = folded(shown);
      if (!invert) shown.reverse();
      for (const step of shown) steps[at++] = step;
      this.starts[stack + 1] = at;
    }
    this.steps = steps.subarray(0, at);
    this.rank = this.#ranks();
  }

  // The place of each stack in the order of its steps; equal stacks have one place.
  #ranks() {
    const n = this.starts.length - 1;
    const order = Uint32Array.from({ length: n }, (_, i) => i).sort((a, b) => this.#compare(a, b));
    const rank = new Uint32Array(n);
    let place = 0;
    for (let i = 0; i < n; i++) {
      if (i && this.#compare(order[i - 1], order[i])) place++;
      rank[order[i]] = place;
    }
    return rank;
  }

  #compare(a, b) {
    let i = this.starts[a], j = this.starts[b];
    const iEnd = this.starts[a + 1], jEnd = this.starts[b + 1];
    for (; i < iEnd && j < jEnd; i++, j++) {
      if (this.steps[i] !== this.steps[j]) return this.steps[i] - this.steps[j];
    }
    return (iEnd - i) - (jEnd - j);
  }
}

function hiddenSteps(profile) {
  return Uint8Array.from({ length: profile.nSteps }, (_, step) => HIDDEN.has(profile.stepGroup(step)) ? 1 : 0);
}

// Without the repetitions of a cycle that directly follows itself, as analysis/paths.py folds them.
export function folded(steps) {
  const result = [];
  for (const step of steps) {
    result.push(step);
    for (let period = 1; 2 * period <= result.length; period++) {
      if (result[result.length - 1 - period] !== step) continue;
      const end = result.length;
      let same = true;
      for (let i = 1; i <= period && same; i++) same = result[end - i] === result[end - i - period];
      if (same) {
        result.length = end - period;
        break;
      }
    }
  }
  return result;
}

// Nodes of the tree. Node 0 is the root; a group (thread or pool) has step -2 - its number.
export class Tree {
  constructor(profile, stacks, groups) {
    const { site_stack: stackOf } = profile.columns;
    const order = Uint32Array.from({ length: profile.nSites }, (_, i) => i).sort((a, b) =>
      (groups ? groups[a] - groups[b] : 0) || stacks.rank[stackOf[a]] - stacks.rank[stackOf[b]]);
    const steps = [-1], parents = [0], depths = [0];
    this.nodeOf = new Int32Array(profile.nSites);
    let path = [0];
    let before = -1;
    for (const site of order) {
      const stack = stackOf[site];
      const isNewGroup = before < 0 || (groups && groups[site] !== groups[before]);
      let common = 0;
      const base = groups ? 2 : 1;
      if (isNewGroup) {
        path = [0];
        if (groups) path.push(add(-2 - groups[site], 0, 1));
      } else {
        common = shared(stacks, stackOf[before], stack);
        path.length = Math.min(path.length, base + common);
      }
      for (let i = stacks.starts[stack] + common; i < stacks.starts[stack + 1]; i++) {
        path.push(add(stacks.steps[i], path[path.length - 1], path.length));
      }
      this.nodeOf[site] = path[path.length - 1];
      before = site;
    }
    this.steps = Int32Array.from(steps);
    this.parents = Int32Array.from(parents);
    this.depths = Uint16Array.from(depths);
    this.ends = this.#ends();

    function add(step, parent, depth) {
      steps.push(step);
      parents.push(parent);
      depths.push(depth);
      return steps.length - 1;
    }
  }

  get size() {
    return this.steps.length;
  }

  // The end of each node's part of the tree: its children are node + 1, ends[node + 1], ...
  #ends() {
    const ends = Int32Array.from(this.steps, (_, i) => i + 1);
    for (let node = ends.length - 1; node > 0; node--) {
      const parent = this.parents[node];
      if (ends[node] > ends[parent]) ends[parent] = ends[node];
    }
    return ends;
  }

  // Own figure of each node and the figure with all below it. What shrinks has no width: its sum is lost.
  sums(values) {
    const own = new Float64Array(this.size);
    for (let site = 0; site < values.length; site++) own[this.nodeOf[site]] += values[site];
    let lost = 0;
    for (let node = 0; node < own.length; node++) {
      if (own[node] < 0) {
        lost += own[node];
        own[node] = 0;
      }
    }
    const whole = Float64Array.from(own);
    for (let node = whole.length - 1; node > 0; node--) whole[this.parents[node]] += whole[node];
    return { own, whole, lost };
  }

  children(node) {
    const found = [];
    for (let child = node + 1; child < this.ends[node]; child = this.ends[child]) found.push(child);
    return found;
  }

  // From below the root to the node.
  path(node) {
    const path = [];
    for (; node > 0; node = this.parents[node]) path.push(node);
    return path.reverse();
  }
}

function shared(stacks, a, b) {
  let n = 0;
  const most = Math.min(stacks.starts[a + 1] - stacks.starts[a], stacks.starts[b + 1] - stacks.starts[b]);
  while (n < most && stacks.steps[stacks.starts[a] + n] === stacks.steps[stacks.starts[b] + n]) n++;
  return n;
}
