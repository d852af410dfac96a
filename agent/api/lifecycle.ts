/** offbox.v1.Lifecycle: what runs on this device, and how it is changed. */
import type { Clock } from '../../core/clock.ts'
import { OffboxError } from '../../core/errors.ts'
import { type BundleUpload, type ChangeInit, LifecycleMethods, type ServiceEventInit, type ServiceStatusInit } from '../../proto/gen/lifecycle.ts'
import type { Engine } from '../change/engine.ts'
import type { Receipts } from '../change/receipts.ts'
import type { ServiceChanges } from '../change/service-changes.ts'
import { reasonCharsMax, receiptsPerAnswerMax, uploadsMax, watchersMax } from '../limits.ts'
import { Backlog } from '../log.ts'
import type { Supervisor } from '../supervisor/types.ts'
import type { FloorStore } from '../trust/floors.ts'
import { changeMessage, circuitMessage, downMessage, statusMessage, transitionMessage } from './messages.ts'
import type { CallContext, Serve } from './serve.ts'
import { receiveUpload } from './upload.ts'

export interface LifecycleParts {
  readonly engine: Engine
  readonly services: ServiceChanges
  readonly supervisor: Supervisor
  readonly floors: FloorStore
  readonly receipts: Pick<Receipts, 'list' | 'of'>
  readonly clock: Clock
}

export function serveLifecycle(serve: Serve, parts: LifecycleParts): void {
  const { engine, services, supervisor, floors, receipts, clock } = parts
  let uploads = 0
  let watchers = 0

  const statusOf = (service: string, withHistory: boolean): ServiceStatusInit | null => {
    const running = supervisor.get(service)
    return running ? statusMessage(running, { floor: floors.of(service), change: engine.current(service), withHistory }) : null
  }
  const inventory = async (): Promise<ServiceStatusInit[]> => {
    const running = supervisor.list().flatMap(({ service }) => statusOf(service, true) ?? [])
    const down = (await services.down()).map((found) =>
      downMessage(found, { floor: floors.of(found.service), change: engine.current(found.service), withHistory: true }),
    )
    return [...running, ...down].sort((one, other) => ((one.service ?? '') < (other.service ?? '') ? -1 : 1))
  }

  serve.unary(LifecycleMethods.List, async () => ({ services: await inventory() }))
  serve.unary(LifecycleMethods.Get, async ({ service }) => {
    const found = (await inventory()).find((status) => status.service === service)
    if (!found) throw new OffboxError('SERVICE_NOT_FOUND', `no service ${JSON.stringify(service)} on this device`)
    return found
  })

  const order = (kind: 'install' | 'upgrade') => async (requests: AsyncIterable<BundleUpload>, context: CallContext) => {
    if (uploads >= uploadsMax) throw new OffboxError('LIMIT_REACHED', `${uploadsMax} uploads are under way`)
    uploads += 1
    try {
      const upload = await receiveUpload(requests, { kind, author: context.principal, clock })
      // A caller who is gone before all of it came in has not ordered anything.
      if (context.signal.aborted) throw new OffboxError('ARGUMENT_INVALID', 'the upload was cancelled')
      await floors.raise(upload.floors)
      return changeMessage(await services.order(upload.order, upload.file, upload.evidence))
    } finally {
      uploads -= 1
    }
  }
  serve.clientStream(LifecycleMethods.Install, order('install'))
  serve.clientStream(LifecycleMethods.Upgrade, order('upgrade'))

  serve.unary(LifecycleMethods.Confirm, async ({ changeId }, { principal, connectionOpenedAtMs }) =>
    changeMessage(await engine.confirm(changeId, { principal, connectionOpenedAtMs })),
  )
  serve.unary(LifecycleMethods.Revert, async ({ changeId, reason }, { principal }) =>
    changeMessage(await engine.revert(changeId, `reverted by ${principal}${checkReason(reason)}`)),
  )
  serve.unary(LifecycleMethods.Remove, async ({ service, reason }, { principal }): Promise<ChangeInit> => {
    checkReason(reason)
    return changeMessage(await services.remove(service, { author: principal, reason }))
  })

  serve.unary(LifecycleMethods.Receipts, async ({ service, changeId, before }) => ({
    receipts: changeId === '' ? await receipts.list({ service, before, most: receiptsPerAnswerMax }) : [await receipts.of(changeId)],
  }))

  serve.serverStream(LifecycleMethods.Watch, async function* ({ service: only }, { signal }) {
    if (watchers >= watchersMax) throw new OffboxError('LIMIT_REACHED', `${watchersMax} watchers are open`)
    watchers += 1
    const backlog = new Backlog<ServiceEventInit>()
    const wanted = (service: string) => only === '' || only === service
    const event = (service: string): ServiceEventInit => ({ atMs: clock.nowMs(), status: statusOf(service, false) ?? { service } })
    const stops = [
      supervisor.watch(({ service, transition, circuit, removed }) => {
        if (!wanted(service)) return
        const what = { transition: transition ? transitionMessage(transition) : null, circuit: circuit ? circuitMessage(circuit) : null }
        backlog.push({ ...event(service), ...what, removed: removed ?? false })
      }),
      engine.watch((record) => {
        if (wanted(record.service)) backlog.push({ ...event(record.service), change: changeMessage(record) })
      }),
    ]
    signal.addEventListener('abort', () => backlog.end(), { once: true })
    if (signal.aborted) backlog.end()
    try {
      for (const status of await inventory()) if (wanted(status.service ?? '')) yield { atMs: clock.nowMs(), status }
      for (let next = await backlog.next(); next; next = await backlog.next()) {
        if (next.dropped > 0) throw new OffboxError('LIMIT_REACHED', `this watcher is too slow: ${next.dropped} events were lost; watch anew`)
        yield next.item
      }
    } finally {
      watchers -= 1
      for (const stop of stops) stop()
    }
  })
}

function checkReason(reason: string): string {
  if (reason.length > reasonCharsMax) throw new OffboxError('ARGUMENT_INVALID', `reason has more than ${reasonCharsMax} characters`)
  return reason === '' ? '' : `: ${reason}`
}
