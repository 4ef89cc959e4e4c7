'use strict';
// The live part of the dashboard. The server renders the machines; this script fetches the page again
// and takes the rendered parts over. It draws the load from /metrics, and browses, watches and edits
// keys. Values are only ever set as text.

const PERIOD_MS = 2000;
const POINTS_MAX = 120;
const NODES_MAX = 500;
const VALUE_CHARS_MAX = 400;
const find = (id) => document.getElementById(id);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// -- machines

// Makes `old` equal to `next` and keeps what is equal already, so that the focus stays.
function follow(old, next) {
  if (old.isEqualNode(next)) return;
  const isAlike = old.nodeName === next.nodeName && old.childNodes.length === next.childNodes.length;
  if (!isAlike || !old.childNodes.length) return old.replaceWith(next);
  for (const { name } of [...old.attributes]) if (!next.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of next.attributes) old.setAttribute(name, value);
  const nexts = [...next.childNodes];
  [...old.childNodes].forEach((child, place) => follow(child, nexts[place]));
}

async function showMachines() {
  const answer = await fetch('./', { cache: 'no-store' });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const next = new DOMParser().parseFromString(await answer.text(), 'text/html');
  for (const id of ['summary', 'view', 'members', 'standbys', 'facts']) follow(find(id), next.getElementById(id));
  document.title = next.title;
}

// -- load

function parseMetrics(text) {
  const values = new Map();
  for (const line of text.split('\n')) {
    const space = line.lastIndexOf(' ');
    if (space > 0 && line[0] !== '#') values.set(line.slice(0, space), Number(line.slice(space + 1)));
  }
  return values;
}

function sum(values, name) {
  let total = 0;
  for (const [key, value] of values) if (key === name || key.startsWith(name + '{')) total += value;
  return total;
}

const rate = (name) => (now, before, s) => Math.max(0, (sum(now, name) - sum(before, name)) / s);
const gauge = (name) => (now) => now.get(name) ?? null;

// The 99th percentile of what was counted between two samples: a bound of the histogram.
function slowest(name, labels) {
  const prefix = `${name}_bucket{${labels}le="`;
  return (now, before) => {
    const risen = [];
    for (const [key, value] of now) {
      if (key.startsWith(prefix)) risen.push([key.slice(prefix.length, -2), value - (before.get(key) ?? 0)]);
    }
    const total = Math.max(0, ...risen.map(([, count]) => count));
    const found = risen.find(([, count]) => count >= 0.99 * total);
    return total && found ? Number(found[0].replace('+Inf', 'Infinity')) : null;
  };
}

const count = (value) => (value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString('en'));
const time = (s) => (s < 1 ? `${Number((1000 * s).toPrecision(3))} ms` : `${Number(s.toPrecision(3))} s`);
const size = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
const PLOTS = [
  { title: 'Requests a second', read: rate('tern_http_requests_total'), write: count },
  { title: 'Writes a second', read: rate('tern_store_writes_total'), write: count },
  { title: 'PUT, 99 % within', read: slowest('tern_request_duration_seconds', 'kind="put",'), write: time },
  { title: 'Sync, 99 % within', read: slowest('tern_sync_duration_seconds', ''), write: time },
  { title: 'Watchers', read: gauge('tern_watchers'), write: (value) => String(value) },
  { title: 'Resident memory', read: gauge('process_resident_memory_bytes'), write: size },
].map((plot) => ({ ...plot, points: [] }));
let lastSample = null;

const svg = (name, attributes) => {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};

function draw(plot) {
  const known = plot.points.filter((value) => value !== null && Number.isFinite(value));
  const highest = Math.max(...known, 0) || 1;
  const last = plot.points.at(-1);
  const text = last === null || last === undefined ? 'none' : Number.isFinite(last) ? plot.write(last) : 'over 8 s';
  const places = plot.points.map((value, place) => {
    const x = POINTS_MAX - plot.points.length + place;
    return `${x},${(38 - 36 * Math.min(1, (value ?? 0) / highest)).toFixed(1)}`;
  });
  const picture = svg('svg', { viewBox: `0 0 ${POINTS_MAX - 1} 40`, preserveAspectRatio: 'none', 'aria-hidden': 'true' });
  const left = POINTS_MAX - plot.points.length;
  picture.append(
    svg('polygon', { points: `${left},40 ${places.join(' ')} ${POINTS_MAX - 1},40` }),
    svg('polyline', { points: places.join(' ') }),
  );
  const caption = element('figcaption', {}, element('span', {}, plot.title), element('b', {}, text));
  const highestText = element('span', { class: 'none' }, known.length ? `highest ${plot.write(highest)}` : 'nothing to measure');
  return element('figure', {}, caption, picture, highestText);
}

async function showLoad() {
  const answer = await fetch('/metrics', { cache: 'no-store' });
  const sample = { at: performance.now(), values: parseMetrics(await answer.text()) };
  if (lastSample) {
    const s = (sample.at - lastSample.at) / 1000;
    for (const plot of PLOTS) {
      plot.points.push(plot.read(sample.values, lastSample.values, s));
      if (plot.points.length > POINTS_MAX) plot.points.shift();
    }
    find('plots').replaceChildren(...PLOTS.map(draw));
    find('load').hidden = false;
  }
  lastSample = sample;
}

async function stayLive() {
  for (;;) {
    if (!document.hidden) {
      let text = 'Live: shown anew every two seconds.';
      try {
        await Promise.all([showMachines(), showLoad()]);
      } catch {
        text = 'This machine does not answer: what is shown is old.';
      }
      if (find('live').textContent !== text) find('live').textContent = text;
    }
    await pause(PERIOD_MS);
  }
}

// -- keys

let path = '';
let watching = null;
const target = (key, query = '') => '/v2/keys' + key.split('/').map(encodeURIComponent).join('/') + query;
const nameOf = (key) => key.slice(key.lastIndexOf('/') + 1);
const say = (text, ...more) => find('message').replaceChildren(text, ...more);
const button = (text, label, act) => {
  const made = element('button', { type: 'button', 'aria-label': label }, text);
  made.addEventListener('click', act);
  return made;
};

async function readKey(key) {
  const answer = await fetch(target(key, '?sorted=true'), { cache: 'no-store' });
  const body = await answer.json();
  return { body, index: Number(answer.headers.get('X-Etcd-Index')) };
}

// Writes below /v2/keys. Returns null if it was done, else why not, as nodes for the page.
async function write(method, key, parameters) {
  const form = new URLSearchParams(parameters);
  const isPut = method === 'PUT';
  let answer;
  try {
    answer = await fetch(target(key, isPut ? '' : `?${form}`), { method, body: isPut ? form : undefined, redirect: 'manual' });
  } catch {
    return ['This machine does not answer. The change may have happened: look before you repeat it.'];
  }
  if (answer.type === 'opaqueredirect') {
    const leader = document.querySelector('#members tr[data-leader] a');
    if (!leader) return ['This machine does not lead, and knows no leader.'];
    const link = element('a', { href: leader.href + location.hash }, leader.href);
    return ['This machine does not lead. Changes are made at the leader: ', link];
  }
  if (answer.ok) return null;
  const { errorCode, message, cause } = await answer.json();
  if (errorCode === 101) return [`It was changed meanwhile ${cause}. Nothing was written: look at it again.`];
  return [`error ${errorCode}: ${message} (${cause})`];
}

function showPath() {
  const segments = path.split('/').filter(Boolean);
  const items = [element('li', {}, element('a', { href: '#/' }, 'all keys'))];
  segments.forEach((segment, place) => {
    const href = '#/' + segments.slice(0, place + 1).map(encodeURIComponent).join('/');
    items.push(element('li', {}, element('a', { href }, segment)));
  });
  items.at(-1).firstChild.setAttribute('aria-current', 'location');
  find('path').replaceChildren(element('ol', {}, ...items));
}

function row(node, changed) {
  const name = nameOf(node.key);
  const cells = [];
  const add = (label, attributes, ...children) => cells.push(element('td', { 'data-label': label, ...attributes }, ...children));
  if (node.dir) {
    const href = '#' + node.key.split('/').map(encodeURIComponent).join('/');
    add('Value', { class: 'none' }, 'directory');
    cells.unshift(element('th', { scope: 'row', 'data-label': 'Key' }, element('a', { href }, name + '/')));
  } else {
    const long = node.value.length > VALUE_CHARS_MAX;
    const text = long ? `${node.value.slice(0, VALUE_CHARS_MAX)}… (${node.value.length} characters)` : node.value;
    add('Value', { class: 'value' }, text);
    cells.unshift(element('th', { scope: 'row', 'data-label': 'Key' }, name));
  }
  add('TTL', { class: 'number' }, node.ttl === undefined ? '' : `${node.ttl} s`);
  add('Changed at', { class: 'number' }, String(node.modifiedIndex));
  const actions = element('span', { class: 'actions' });
  if (!node.dir) actions.append(button('Edit', `Edit ${name}`, () => edit(node)));
  actions.append(button('Delete', `Delete ${name}`, () => remove(node)));
  add('Actions', {}, actions);
  return element('tr', node.key === changed ? { class: 'changed' } : {}, ...cells);
}

// Lists the directory. Returns the etcd index of the listing.
async function list(changed) {
  const { body, index } = await readKey(path || '/');
  if (body.errorCode) {
    find('nodes').replaceChildren();
    say(`error ${body.errorCode}: ${body.message} (${body.cause})`);
    return index;
  }
  const all = body.node.dir ? body.node.nodes ?? [] : [body.node];
  const shown = all.slice(0, NODES_MAX).map((node) => row(node, changed));
  if (all.length > NODES_MAX) shown.push(note(`and ${all.length - NODES_MAX} more`));
  if (!all.length) shown.push(note('no keys here'));
  const focused = document.activeElement?.getAttribute('aria-label');
  find('nodes').replaceChildren(...shown);
  if (focused) [...find('nodes').querySelectorAll('button')].find((b) => b.getAttribute('aria-label') === focused)?.focus();
  return index;
}

const note = (text) => element('tr', {}, element('td', { colspan: '5', class: 'none' }, text));

// Lists the directory anew with each change below it, until it is aborted.
async function watch(signal) {
  let changed = null;
  while (!signal.aborted) {
    try {
      const index = await list(changed);
      const query = `?wait=true&recursive=true&waitIndex=${index + 1}`;
      const answer = await fetch(target(path || '/', query), { signal, cache: 'no-store' });
      const event = JSON.parse((await answer.text()) || 'null');
      changed = event?.node?.key ?? null;
      await pause(200);
    } catch {
      if (!signal.aborted) await pause(PERIOD_MS);
    }
  }
}

function browse() {
  watching?.abort();
  const segments = location.hash.slice(1).split('/').filter(Boolean);
  path = segments.map((segment) => '/' + decodeURIComponent(segment)).join('');
  say('');
  showPath();
  const watches = find('watch').getAttribute('aria-pressed') === 'true';
  watching = new AbortController();
  if (watches) watch(watching.signal);
  else list(null).catch(() => say('This machine does not answer.'));
}

async function remove(node) {
  const what = node.dir ? 'the empty directory' : 'the key';
  if (!confirm(`Delete ${what} ${node.key}?`)) return;
  const refusal = await write('DELETE', node.key, node.dir ? { dir: 'true' } : { prevIndex: node.modifiedIndex });
  say(...(refusal ?? ['']));
  list(null);
}

// Opens the editor for a file, or for a new one.
function edit(node) {
  const [key, value, ttl] = ['editor-key', 'editor-value', 'editor-ttl'].map(find);
  find('editor-title').textContent = node ? `Edit, as of index ${node.modifiedIndex}` : 'New key';
  key.value = node ? node.key : `${path}/`;
  key.readOnly = Boolean(node);
  value.value = node ? node.value : '';
  ttl.value = node?.ttl ?? '';
  const isKept = !node || value.value === node.value;
  find('editor-message').replaceChildren(isKept ? '' : 'The value has carriage returns, which saving here would remove.');
  find('editor').returnValue = '';
  find('editor-save').onclick = async (event) => {
    if (!find('editor').querySelector('form').reportValidity()) return;
    event.preventDefault();
    const parameters = node ? { value: value.value, prevIndex: node.modifiedIndex } : { value: value.value, prevExist: 'false' };
    if (ttl.value) parameters.ttl = ttl.value;
    const name = key.value.startsWith('/') ? key.value : `/${key.value}`;
    const refusal = await write('PUT', name, parameters);
    if (refusal) return find('editor-message').replaceChildren(...refusal);
    find('editor').close();
    list(name);
  };
  find('editor').showModal();
  (node ? value : key).focus();
}

find('browser').hidden = false;
find('new-key').addEventListener('click', () => edit(null));
find('watch').addEventListener('click', () => {
  const is = find('watch').getAttribute('aria-pressed') === 'true';
  find('watch').setAttribute('aria-pressed', String(!is));
  browse();
});
addEventListener('hashchange', browse);
browse();
stayLive();
