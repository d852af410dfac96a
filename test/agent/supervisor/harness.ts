/** A supervisor over real workers and processes, and a client for it. */
import type { ClientCall, CallHandle, Supervisor, SupervisorHost } from '../../../agent/supervisor/types.ts'
import type { SupervisorLimits } from '../../../agent/supervisor/limits.ts'
import { createSupervisor } from '../../../agent/supervisor/supervisor.ts'
import type { TierOptions } from '../../../agent/supervisor/tiers.ts'
import type { ErrorCode } from '../../../core/errors.ts'
import { hostText, processHostText } from '../../fixtures/services/counter/bundle.ts'

export interface Harness {
  readonly supervisor: Supervisor
  readonly logs: { service: string; level: string; message: string; fields: Record<string, unknown> }[]
  readonly failures: string[]
  readonly capabilityCalls: string[]
  onMethodsChanged(listener: () => void): void
}

export async function harness(limits: Partial<SupervisorLimits> = {}, tiers: Partial<TierOptions> = {}): Promise<Harness> {
  const logs: Harness['logs'] = []
  const failures: string[] = []
  const capabilityCalls: string[] = []
  let methodsChanged = () => {}
  const host: SupervisorHost = {
    capability: async (service, capability, operation) => {
      capabilityCalls.push(`${service} ${capability}.${operation}`)
      return { load1: 1.5 }
    },
    log: (service, level, message, fields) => logs.push({ service, level, message, fields }),
    methodsChanged: () => methodsChanged(),
  }
  const supervisor = createSupervisor(host, {
    hostText: await hostText(),
    chance: () => 1,
    limits,
    tiers: { processHostText: await processHostText(), key: `test-${process.pid}`, ...tiers },
  })
  supervisor.onProvisionalFailure = (_, reason) => failures.push(reason)
  const onMethodsChanged = (listener: () => void) => {
    methodsChanged = listener
  }
  return { supervisor, logs, failures, capabilityCalls, onMethodsChanged }
}

export type Outcome = { text: string; error?: undefined } | { text?: undefined; error: ErrorCode; message: string }

const encoder = new TextEncoder()
const decoder = new TextDecoder()

/** One unary call of the counter. Never rejects. */
export async function ask(supervisor: Supervisor, method: string, request = ''): Promise<Outcome> {
  return await new Promise((resolve) => {
    let text = ''
    try {
      const handle = supervisor.call(
        client(`/test.Counter/${method}`, 'unary', {
          send: (bytes) => {
            text = decoder.decode(bytes)
            return true
          },
          end: (error) => resolve(error ? { error: error.code, message: error.message } : { text }),
        }),
      )
      handle.message(encoder.encode(request))
      handle.halfClose()
    } catch (error) {
      const { code, message } = error as { code: ErrorCode; message: string }
      resolve({ error: code, message })
    }
  })
}

export interface Stream {
  readonly handle: CallHandle
  readonly received: string[]
  readonly ended: Promise<ErrorCode | 'OK'>
  send(text: string): boolean
}

export function stream(supervisor: Supervisor, method: string, kind: ClientCall['kind'], request?: string, take: () => boolean = () => true): Stream {
  const received: string[] = []
  let end: (code: ErrorCode | 'OK') => void = () => {}
  const ended = new Promise<ErrorCode | 'OK'>((resolve) => {
    end = resolve
  })
  const handle = supervisor.call(
    client(`/test.Counter/${method}`, kind, {
      send: (bytes) => {
        received.push(decoder.decode(bytes))
        return take()
      },
      end: (error) => end(error?.code ?? 'OK'),
    }),
  )
  if (request !== undefined) {
    handle.message(encoder.encode(request))
    handle.halfClose()
  }
  return { handle, received, ended, send: (text) => handle.message(encoder.encode(text)) }
}

function client(method: string, kind: ClientCall['kind'], to: Pick<ClientCall, 'send' | 'end'>): ClientCall {
  return { method, kind, principal: 'spiffe://lab/operator/test', deadlineMs: undefined, metadata: {}, ...to }
}

/** Resolves when `holds` does; rejects after a minute, naming what was awaited. */
export async function until(what: string, holds: () => boolean): Promise<void> {
  const deadlineMs = Date.now() + 60_000
  while (!holds()) {
    if (Date.now() > deadlineMs) throw new Error(`never happened: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
