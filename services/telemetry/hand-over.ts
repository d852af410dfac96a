/** What one version of telemetry tells the next. JSON, since it is three numbers. */
import { OffboxError, type Snapshot } from '../sdk/service.ts'
import type { CounterState } from './counter.ts'

export interface HandOver extends CounterState {
  /** Wall time of the newest sample, Unix milliseconds, so that times never go back from one version to the next; 0: unknown. */
  readonly lastAtMs: number
}

/** Schema 1 (1.0.0): the sequence alone. Schema 2 (1.1.0): the reserved numbers and the newest time as well. */
export function writeHandOver(schema: number, { sequence, reservedTo, lastAtMs }: HandOver): Snapshot {
  const value = schema === 1 ? { sequence } : { sequence, reservedTo, lastAtMs }
  return { schema, bytes: new TextEncoder().encode(JSON.stringify(value)) }
}

/** @throws ARGUMENT_INVALID bytes that no version of telemetry wrote: starting from zero would repeat numbers */
export function readHandOver({ schema, bytes }: Snapshot): HandOver {
  let raw: Partial<HandOver> | null
  try {
    raw = JSON.parse(new TextDecoder().decode(bytes)) as Partial<HandOver> | null
  } catch (error) {
    throw new OffboxError('ARGUMENT_INVALID', 'the state handed over is not JSON', { cause: error })
  }
  const { sequence } = raw ?? {}
  const { reservedTo, lastAtMs } = schema === 1 ? { reservedTo: sequence, lastAtMs: 0 } : (raw ?? {})
  if (!isCount(sequence) || !isCount(reservedTo) || !isCount(lastAtMs) || reservedTo < sequence) {
    throw new OffboxError('ARGUMENT_INVALID', `the state handed over breaks schema ${schema}`)
  }
  return { sequence, reservedTo, lastAtMs }
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}
