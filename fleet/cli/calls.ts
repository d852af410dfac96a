/** What a service provides to others, what it requires of them, and whether its calls get there, in plain words. Pure. */
import type { Circuit, ServiceStatus } from '../../proto/gen/lifecycle.ts'
import type { Next } from './explain.ts'
import { time } from './output.ts'

/** Sentences for `explain`; none for a service that stands alone. */
export function callWords({ circuits, provides, requires }: ServiceStatus): string[] {
  const troubled = circuits
    .filter((one) => one.state !== 'closed' || one.service === '' || one.failures > 0)
    .map((one) => trouble(one, requires[one.api] ?? ''))
  const calls = circuits.filter(({ service }) => service !== '').map(({ api, service }) => `${api} ${requires[api] ?? ''} (${service} serves it)`)
  const kernel = requires['kernel'] === undefined ? [] : [`kernel ${requires['kernel']}`]
  const wanted = [...kernel, ...calls]
  const given = Object.entries(provides).map(([api, version]) => `${api} ${version}`)
  return [
    ...troubled,
    ...(wanted.length > 0 ? [`it requires ${wanted.join(', ')}`] : []),
    ...(given.length > 0 && circuits.length > 0 ? [`it provides ${given.join(', ')}`] : []),
  ]
}

/** When open circuits let a call try. */
export function callNext({ circuits }: ServiceStatus): Next[] {
  return circuits
    .filter(({ state }) => state === 'open')
    .map(({ api, retryAtMs }) => ({ atMs: retryAtMs, text: `the first call of ${api} after ${time(retryAtMs)} is let through, and decides` }))
}

/** For the column of `list`: APIs it calls, and what is wrong with those calls. */
export function callsText({ circuits }: ServiceStatus): string {
  return circuits.map(({ api, service, state }) => (state !== 'closed' ? `${api} (${state})` : service === '' ? `${api} (nothing serves it)` : api)).join(', ')
}

/** One event of `watch`. */
export function circuitText({ api, service, state, failures, retryAtMs }: Circuit): string {
  const to = `calls of ${api}${service === '' ? '' : ` (${service})`}`
  if (state === 'open') return `${to}: circuit open after ${failures} failures in a row, next try ${time(retryAtMs)}`
  return state === 'half-open' ? `${to}: circuit half-open, one call tries` : `${to}: circuit closed, they go through again`
}

function trouble({ api, service, state, failures }: Circuit, range: string): string {
  const who = service === '' ? '' : `, which ${service} serves,`
  if (state === 'open') return `its last ${failures} calls of ${api}${who} failed: for a while they end at once (CIRCUIT_OPEN)`
  if (state === 'half-open') return `one call of ${api}${who} is under way to see whether it answers again; the others end at once (CIRCUIT_OPEN)`
  if (service === '') return `it requires ${api} ${range}, which nothing on the device serves now: its calls of it fail`
  return `its last ${failures} ${failures === 1 ? 'call' : 'calls'} of ${api}${who} failed`
}
