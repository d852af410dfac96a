/**
 * What a service can be lent of the machine. A manifest names the capabilities; the agent's drivers (agent/drivers) carry
 * the operations out; a service that was not granted one does not see it. Arguments and results cross a worker boundary,
 * so they are plain data. Every operation may throw DRIVER_FAILED; other errors are named.
 */

/** BIRD: one configuration at a time, checked, applied with a way back. */
export interface BirdCapability {
  /** Has BIRD parse the text; answers the revision it would have. @throws CONFIG_INVALID with BIRD's line and message */
  check(input: { text: string }): Promise<{ revision: string }>
  /**
   * Applies `text` as a change of the change engine (kind "config"): live when this resolves, undone by BIRD's own timer and by
   * the agent unless the change is confirmed. `document` (at most 1 MiB) is kept beside the text and moves with it.
   * @throws CONFIG_INVALID, SWAP_IN_PROGRESS
   */
  apply(input: {
    text: string
    document: Uint8Array
    confirmTimeoutMs: number
    comment: string
    author: string
  }): Promise<{ changeId: string; revision: string }>
  /** What is live. `revision` is the SHA-256 of the text, hex; empty text, document and revision before the first apply. */
  current(): Promise<{ text: string; document: Uint8Array; revision: string; provisional: boolean; changeId: string }>
  /** Protocols and counts as BIRD has them now. */
  protocols(): Promise<{ version: string; routerId: string; protocols: BirdProtocol[] }>
  /** At most `max` routes of table master4. */
  routes(input: { max: number }): Promise<BirdRoute[]>
  /** Sets the constant DRAINED that rendered export filters test, and re-announces. @throws SWAP_IN_PROGRESS while a change is provisional */
  setDrained(input: { drained: boolean }): Promise<void>
  drained(): Promise<boolean>
}

export interface BirdProtocol {
  name: string
  /** "BGP", "Static", "Kernel", "Device", … */
  type: string
  /** "up", "down", "start", "stop" */
  state: string
  since: string
  /** BGP state, e.g. "Established". */
  info: string
  neighborAddress: string
  neighborAs: number
  routesImported: number
  routesExported: number
}

export interface BirdRoute {
  prefix: string
  via: string
  protocol: string
  best: boolean
}

/** Network interfaces, read only. */
export interface LinkCapability {
  /** Every interface but loopback, in order of name. Counters are those of the kernel, 64-bit read as numbers. */
  interfaces(): Promise<LinkInterface[]>
}

export interface LinkInterface {
  name: string
  operStatus: string
  mac: string
  mtu: number
  inOctets: number
  outOctets: number
  inPackets: number
  outPackets: number
  inErrors: number
  outErrors: number
  inDiscards: number
  outDiscards: number
}

/** CPU and memory, read only. */
export interface ProcCapability {
  read(): Promise<{ cpuBusyMs: number; cpuIdleMs: number; memoryTotalBytes: number; memoryAvailableBytes: number; load1: number }>
}

/** The device's API key and certificate. The private key never leaves the driver. */
export interface KeystoreCapability {
  /** Makes a new key pair (ECDSA P-256) and a request for it. One at a time; a later call discards the earlier pair. */
  request(): Promise<{ requestId: string; csrPem: string }>
  /**
   * Puts the certificate for a request into service for new connections, as a change (kind "certificate").
   * @throws CERTIFICATE_INVALID, SWAP_IN_PROGRESS, STATE_REFUSED (unknown requestId)
   */
  install(input: {
    requestId: string
    chainPem: string
    confirmTimeoutMs: number
    reason: string
    author: string
  }): Promise<{ changeId: string; serial: string; notAfterMs: number }>
  status(): Promise<{ serial: string; spiffeId: string; notBeforeMs: number; notAfterMs: number; provisional: boolean; changeId: string; rotations: number }>
}

/** Small values that outlive the service's worker; gone when the service is removed. */
export interface StateCapability {
  /** Null when there is none. `key`: [a-z0-9-]{1,64}. @throws STORE_CORRUPT */
  get(input: { key: string }): Promise<Uint8Array | null>
  /** Atomic and durable. At most 1 MiB a value and 16 MiB a service. @throws LIMIT_REACHED, STORE_FULL */
  set(input: { key: string; value: Uint8Array }): Promise<void>
  delete(input: { key: string }): Promise<void>
}

/** What a service finds in `ctx.capabilities`: those its manifest names, no others. */
export interface Capabilities {
  bird?: BirdCapability
  link?: LinkCapability
  proc?: ProcCapability
  keystore?: KeystoreCapability
  state?: StateCapability
}
