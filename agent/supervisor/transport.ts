/** What carries messages between the agent and one started version of a service: a worker thread or a process. */
import type { ToWorker } from '../../services/sdk/wire.ts'
import type { SupervisorLimits } from './limits.ts'
import type { VerifiedBundle } from './types.ts'

/** What a version uses. */
export interface Usage {
  /** Heap and what lies outside it; in the process tier the resident memory of the process. */
  readonly memoryBytes: number
  /** CPU time since it started, milliseconds. */
  readonly cpuMs: number
  /** Whether `memoryBytes` is part of the agent's own resident memory. */
  readonly inAgent?: boolean
}

export interface TransportOptions {
  readonly bundle: VerifiedBundle
  readonly limits: SupervisorLimits
}

/** Called by the transport, in order; never from within `StartTransport`. */
export interface TransportListener {
  /** A batch of FromWorker messages, unchecked. */
  batch(raw: unknown): void
  printed(stream: 'stdout' | 'stderr', text: string): void
  /** Why it is about to end; the first counts. */
  error(reason: string): void
  /** It is gone. Once, the last call. */
  exit(reason: string): void
}

export interface Transport {
  /** What confines it, e.g. "ses", "cgroup memory.max"; and what should but cannot here, as "no cgroup: why". */
  readonly confinement: readonly string[]
  /** `transfer`: buffers that the sender does not use again. */
  post(batch: readonly ToWorker[], transfer: ArrayBuffer[]): void
  /** Nothing more is sent or heard but `exit`. */
  close(): void
  /** Ends it now. Not awaited: a thread in a system call, or deep in garbage collection, may take many seconds. */
  kill(): void
  /** Undefined once it is gone, or when it cannot be told. */
  usage(): Promise<Usage | undefined>
}

/** @throws when no thread or process can be had */
export type StartTransport = (options: TransportOptions, on: TransportListener) => Transport
