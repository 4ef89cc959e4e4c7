// Drives the dashboard in a headless chromium and checks what a person would see.
//
//   node tests/dashboard/check.mjs URL STATE [FOLDER]
//
// STATE: healthy (edits keys too), dead (one peer is) or leaderless. FOLDER takes screenshots in
// light, dark and at the width of a phone. With AXE=/path/to/axe.min.js in the environment the page is
// checked for accessibility in each of them. Exits 1 with what is wrong.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const [url, state, folder] = process.argv.slice(2);
const PATIENCE_MS = 60_000;
const home = mkdtempSync(join(tmpdir(), 'tern-chromium-'));
const options = [
  '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
  `--user-data-dir=${home}`, '--remote-debugging-pipe', 'about:blank',
];
const browser = spawn('chromium', options, { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] });
const waiting = new Map();
const complaints = [];
let session;
let number = 0;
let input = '';

// Messages of the DevTools protocol, each ended by a zero byte.
browser.stdio[4].setEncoding('utf8').on('data', (text) => {
  input += text;
  for (let end; (end = input.indexOf('\0')) >= 0; input = input.slice(end + 1)) {
    const message = JSON.parse(input.slice(0, end));
    waiting.get(message.id)?.(message);
    waiting.delete(message.id);
    if (message.method === 'Runtime.exceptionThrown') complaints.push(message.params.exceptionDetails.text);
    const entry = message.method === 'Log.entryAdded' ? message.params.entry : null;
    // The browser itself reports refused requests, which the page handles.
    if (entry?.level === 'error' && entry.source !== 'network') complaints.push(entry.text);
  }
});

async function call(method, params = {}) {
  number += 1;
  const id = number;
  const reply = new Promise((resolve) => waiting.set(id, resolve));
  const sessionId = /^(Target|Browser)\./.test(method) ? undefined : session;
  browser.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
  const message = await reply;
  if (message.error) throw new Error(`${method}: ${message.error.message}`);
  return message.result;
}

async function evaluate(expression) {
  const found = await call('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true });
  if (found.exceptionDetails) throw new Error(found.exceptionDetails.exception?.description ?? expression);
  return found.result.value;
}

async function until(what, expression) {
  const end = Date.now() + PATIENCE_MS;
  while (!(await evaluate(expression))) {
    if (Date.now() > end) throw new Error(`in vain: ${what}; the page: ${await evaluate('document.body.innerText')}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const text = (id) => `document.getElementById('${id}').innerText`;
const click = (selector) => evaluate(`document.querySelector(${JSON.stringify(selector)}).click()`);
const fill = (id, value) => evaluate(`document.getElementById('${id}').value = ${JSON.stringify(value)}`);

const VIEWS = [
  { name: 'light', scheme: 'light', width: 1000, height: 900 },
  { name: 'dark', scheme: 'dark', width: 1000, height: 900 },
  { name: 'phone', scheme: 'light', width: 390, height: 900 },
];

async function look() {
  for (const { name, scheme, width, height } of VIEWS) {
    await call('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: false });
    await call('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: scheme }] });
    const wide = await evaluate('document.documentElement.scrollWidth - innerWidth');
    if (wide > 0) complaints.push(`${name}: the page is ${wide} pixels too wide`);
    if (folder) {
      const shot = await call('Page.captureScreenshot', { format: 'png' });
      writeFileSync(join(folder, `${state}-${name}.png`), Buffer.from(shot.data, 'base64'));
    }
    if (process.env.AXE) await checkAccessibility(name);
  }
}

async function checkAccessibility(view) {
  await evaluate(readFileSync(process.env.AXE, 'utf8'));
  const violations = await evaluate(
    'axe.run().then((r) => r.violations.map((v) => `${v.id}: ${v.help}: ${v.nodes.map((n) => n.html).join(" ")}`))',
  );
  complaints.push(...violations.map((found) => `axe, ${view}: ${found}`));
}

// Makes a key with HTML in its value, edits it, and is refused once it was changed behind its back.
async function editKeys() {
  const value = '<img src=x onerror="document.title=1"><b>bold</b>';
  await evaluate('window.confirm = () => true');
  await click('#new-key');
  await fill('editor-key', '/page/<i>key');
  await fill('editor-value', value);
  await click('#editor-save');
  await until('the editor is closed', '!document.getElementById("editor").open');
  await evaluate('location.hash = "#/page"');
  const cell = 'document.querySelector("#nodes td.value")';
  await until('the value is shown as text', `${cell}?.innerText === ${JSON.stringify(value)}`);
  if (await evaluate('document.querySelector("#nodes img, #nodes b, #nodes i") !== null')) complaints.push('HTML of a key is carried out');
  await click('#nodes button');
  await until('the editor is open', 'document.getElementById("editor").open');
  await evaluate('fetch("/v2/keys/page/%3Ci%3Ekey", { method: "PUT", body: new URLSearchParams({ value: "theirs" }) })');
  await until('the watch shows the change', `${cell}?.innerText === "theirs"`);
  await fill('editor-value', 'mine');
  await click('#editor-save');
  await until('the write is refused', `${text('editor-message')}.includes('changed meanwhile')`);
  await click('#editor button[value=cancel]');
  await until('the change is kept', `${cell}?.innerText === "theirs"`);
  await click('#nodes button');
  await fill('editor-value', 'mine');
  await click('#editor-save');
  await until('the write is taken', `${cell}?.innerText === "mine"`);
  await click('#nodes button[aria-label^=Delete]');
  await until('the key is gone', `${text('nodes')}.includes('no keys here')`);
}

async function check() {
  const { targetId } = await call('Target.createTarget', { url: 'about:blank' });
  ({ sessionId: session } = await call('Target.attachToTarget', { targetId, flatten: true }));
  for (const domain of ['Page', 'Runtime', 'Log']) await call(`${domain}.enable`);
  await call('Page.navigate', { url });
  await until('the page is live', `document.getElementById('live')?.innerText.startsWith('Live')`);
  await until('the load is drawn', `document.querySelectorAll('#plots svg').length === 6`);
  const seen = { healthy: 'leads 3 machines', dead: 'need attention', leaderless: 'Not healthy: no leader' }[state];
  await until('the summary tells the state', `${text('summary')}.includes('${seen}')`);
  const member = { healthy: 'follows', dead: 'does not answer', leaderless: 'not connected' }[state];
  await until('the members tell it too', `${text('members')}.includes('${member}')`);
  await look();
  if (state === 'healthy') await editKeys();
}

const patience = setTimeout(() => { console.error('it takes too long'); browser.kill(); process.exit(1); }, 4 * PATIENCE_MS);
try {
  await check();
} catch (error) {
  complaints.push(error.message);
}
clearTimeout(patience);
const ended = new Promise((resolve) => browser.once('exit', resolve));
await call('Browser.close');
await ended;
// Helpers of the browser may write for a moment longer.
rmSync(home, { recursive: true, force: true, maxRetries: 50, retryDelay: 100 });
for (const complaint of complaints) console.error(complaint);
process.exitCode = complaints.length ? 1 : 0;
