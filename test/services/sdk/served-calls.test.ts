import t from 'tap'
import { ServedCalls } from '../../../services/sdk/served-calls.ts'
import type { Call, Served } from '../../../services/sdk/service.ts'
import type { FromWorker } from '../../../services/sdk/wire.ts'

const about = { principal: 'spiffe://lab/operator/test', metadata: { 'user-agent': 'a test' } }

/** Serves `/t/T` with `handle`; what it is called with, and what goes to the agent. */
function served(handle: (call: Call) => Promise<Uint8Array>) {
  const sent: FromWorker[] = []
  const calls: Call[] = []
  const one: Served = {
    path: '/t/T',
    kind: 'unary',
    handle: async (_, call) => {
      calls.push(call)
      return await handle(call)
    },
  }
  const all = new ServedCalls(
    (message) => sent.push(message),
    () => {},
  )
  all.serve([one])
  return { all, sent, calls }
}

const settled = async () => await new Promise((resolve) => setImmediate(resolve))

t.test('a handler is told who calls, with what metadata and until when', async (t) => {
  const { all, sent, calls } = served(async () => new Uint8Array([7]))
  all.receive({ type: 'open', call: 1, method: '/t/T', deadlineMs: 5, ...about })
  all.receive({ type: 'open', call: 2, method: '/t/T', deadlineMs: undefined, ...about })
  await settled()
  t.match(calls[0], { ...about, deadlineMs: 5 })
  t.notOk(calls[1] && 'deadlineMs' in calls[1])
  t.same(
    sent.map((message) => message.type === 'end' && [message.call, message.bytes?.[0]]),
    [
      [1, 7],
      [2, 7],
    ],
  )
})

t.test('a signal that is first asked for after the call was cancelled has aborted, with the reason', async (t) => {
  let goOn = () => {}
  const waits = new Promise<void>((resolve) => {
    goOn = resolve
  })
  const { all, sent, calls } = served(async () => {
    await waits
    return new Uint8Array(0)
  })
  all.receive({ type: 'open', call: 1, method: '/t/T', deadlineMs: undefined, ...about })
  all.receive({ type: 'cancel', call: 1 })
  const [call] = calls
  t.equal(call?.signal.aborted, true)
  t.match(call?.signal.reason, { code: 'DEADLINE_PASSED', message: /cancelled/ })
  t.equal(call?.signal, call?.signal)
  goOn()
  await settled()
  t.same(sent, [{ type: 'cancelled', call: 1 }], 'its answer is dropped')
})

t.test('a signal that was asked for before fires when the service stops', async (t) => {
  const { all, calls } = served(async () => await new Promise(() => {}))
  all.receive({ type: 'open', call: 1, method: '/t/T', deadlineMs: undefined, ...about })
  let fired = 0
  calls[0]?.signal.addEventListener('abort', () => fired++)
  t.equal(calls[0]?.signal.aborted, false)
  all.abortAll('the service is stopping')
  t.equal(fired, 1)
})
