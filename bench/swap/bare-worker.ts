/** The floor of the swap bench: a worker with the host's script and an empty service, started as the agent starts it, loaded, and ended. */
import { workerTransport } from '../../agent/supervisor/worker-transport.ts'
import { SUPERVISOR_LIMITS } from '../../agent/supervisor/limits.ts'
import { hostText, siblingBundle } from '../../test/fixtures/services/counter/bundle.ts'

/** Resolves once it has loaded the service, with the way to end it. */
export async function startBareWorker(): Promise<() => Promise<void>> {
  const bundle = await siblingBundle()
  let ended = () => {}
  const gone = new Promise<void>((resolve) => {
    ended = resolve
  })
  let answered = () => {}
  const loaded = new Promise<void>((resolve) => {
    answered = resolve
  })
  const listener = { batch: () => answered(), printed: () => {}, error: () => {}, exit: () => ended() }
  const transport = workerTransport(await hostText())({ bundle, limits: SUPERVISOR_LIMITS }, listener)
  transport.post([{ type: 'control', id: 1, action: 'load', config: {} }], [])
  await loaded
  return async () => {
    transport.close()
    transport.kill()
    await gone
  }
}
