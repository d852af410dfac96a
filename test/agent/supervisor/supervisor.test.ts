import t from 'tap'
import { counterBundle } from '../../fixtures/services/counter/bundle.ts'
import { ask, harness, stream, until } from './harness.ts'

t.test('an installed service answers all four kinds of call', async (t) => {
  const { supervisor } = await harness()
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), {})
  t.same(await ask(supervisor, 'Next'), { text: '1.0.0 1' })
  const watch = stream(supervisor, 'Watch', 'serverStream', '200')
  t.equal(await watch.ended, 'OK')
  t.same(
    watch.received,
    Array.from({ length: 200 }, (_, index) => `1.0.0 ${index + 2}`),
  )
  const sum = stream(supervisor, 'Sum', 'clientStream')
  for (const number of ['1', '2', '3']) sum.send(number)
  sum.handle.halfClose()
  t.equal(await sum.ended, 'OK')
  t.same(sum.received, ['6'])
  const echo = stream(supervisor, 'Echo', 'bidi')
  echo.send('a')
  await until('an echo', () => echo.received.length === 1)
  echo.send('b')
  echo.handle.halfClose()
  t.equal(await echo.ended, 'OK')
  t.same(echo.received, ['a', 'b'])
  t.match(supervisor.get('counter'), { state: 'ready', version: '1.0.0', previousVersion: '', starts: 1 })
  t.same(
    supervisor.get('counter')?.history.map(({ from, event, to }) => `${from} ${event} ${to}`),
    ['loaded start starting', 'starting ready ready'],
  )
})

t.test('errors keep their code; what is not an OffboxError is INTERNAL', async (t) => {
  const { supervisor, logs } = await harness()
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), {})
  t.match(await ask(supervisor, 'Do', 'refuse'), { error: 'ARGUMENT_INVALID', message: 'refused on purpose' })
  t.match(await ask(supervisor, 'Do', 'bug'), { error: 'INTERNAL' })
  t.ok(logs.some(({ message }) => message === 'a handler failed'))
  t.match(await ask(supervisor, 'Do', 'big'), { error: 'LIMIT_REACHED' })
  t.match(await ask(supervisor, 'Nothing'), { error: 'METHOD_NOT_FOUND' })
})
