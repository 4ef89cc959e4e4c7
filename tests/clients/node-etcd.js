// Calls each function of node-etcd on the server at HOST and PORT. One line a test.
const Etcd = require('node-etcd')
const etcd = new Etcd(`${process.env.HOST}:${process.env.PORT}`, { maxRetries: 3 })

const call = (name, ...args) => new Promise((resolve) =>
  etcd[name](...args, (error, body, headers) => resolve({ error, body, headers })))

async function test (name, run, holds) {
  let result
  try {
    result = await Promise.race([run(), new Promise((resolve) => setTimeout(resolve, 15000, 'no answer'))])
    if (holds(result)) return console.log(`pass ${name}`)
  } catch (error) {
    result = String(error)
  }
  console.log(`fail ${name}: ${JSON.stringify(result).slice(0, 300)}`)
}

const value = (expected) => ({ error, body }) => !error && body.node.value === expected
const code = (expected) => ({ error }) => error && error.errorCode === expected

async function main () {
  await call('del', 'nodejs', { recursive: true })
  await test('set', () => call('set', 'nodejs/a', 'one'), value('one'))
  await test('get', () => call('get', 'nodejs/a'), value('one'))
  await test('get headers', () => call('get', 'nodejs/a'), ({ headers }) => headers['x-etcd-index'] > 0)
  await test('get missing', () => call('get', 'nodejs/none'), code(100))
  await test('set with ttl', () => call('set', 'nodejs/t', 'x', { ttl: 50 }), ({ body }) => body.node.ttl === 50)
  await test('create', () => call('create', 'nodejs/queue', 'job'), ({ body }) => /queue\/\d+$/.test(body.node.key))
  await test('post', () => call('post', 'nodejs/queue', 'job'), ({ body }) => body.action === 'create')
  await test('compareAndSwap', () => call('compareAndSwap', 'nodejs/a', 'two', 'one'), value('two'))
  await test('compareAndSwap differs', () => call('compareAndSwap', 'nodejs/a', 'three', 'one'), code(101))
  await test('testAndSet', () => call('testAndSet', 'nodejs/a', 'three', 'two'), value('three'))
  await test('compareAndDelete differs', () => call('compareAndDelete', 'nodejs/a', 'two'), code(101))
  await test('compareAndDelete', () => call('compareAndDelete', 'nodejs/a', 'three'), ({ body }) => body.action === 'compareAndDelete')
  await test('mkdir', () => call('mkdir', 'nodejs/dir'), ({ body }) => body.node.dir === true)
  await test('rmdir', () => call('rmdir', 'nodejs/dir'), ({ body }) => body.action === 'delete')
  await test('raw', () => call('raw', 'GET', 'v2/stats/self', null, {}), ({ error, body }) => !error && body.name)
  await test('setSync', async () => etcd.setSync('nodejs/s', 'sync'), ({ err, body }) => !err && body.node.value === 'sync')
  await test('getSync', async () => etcd.getSync('nodejs/s'), ({ err, body }) => !err && body.node.value === 'sync')
  await test('watch', () => {
    const watched = call('watch', 'nodejs/w')
    setTimeout(() => call('set', 'nodejs/w', 'seen'), 300)
    return watched
  }, value('seen'))
  await test('watchIndex', async () => {
    const { body } = await call('set', 'nodejs/w', 'past')
    return call('watchIndex', 'nodejs/w', body.node.modifiedIndex)
  }, value('past'))
  await test('watcher', () => new Promise((resolve) => {
    const watcher = etcd.watcher('nodejs', null, { recursive: true })
    watcher.on('change', (body) => { watcher.stop(); resolve(body) })
    setTimeout(() => call('set', 'nodejs/w', 'event'), 300)
  }), (body) => body.node && body.node.value === 'event')
  await test('machines', () => call('machines'), ({ error, body }) => !error && JSON.stringify(body).includes('http'))
  await test('leader', () => call('leader'), ({ error, body }) => !error && body)
  await test('leaderStats', () => call('leaderStats'), ({ error, body }) => error || body.followers)
  await test('selfStats', () => call('selfStats'), ({ error, body }) => !error && body.name)
  await test('version', () => call('version'), ({ error, body }) => !error && body)
  await test('del', () => call('del', 'nodejs/', { recursive: true }), ({ body }) => body.action === 'delete')
  process.exit(0)
}

main()
