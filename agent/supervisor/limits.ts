/** How what services use is watched; resources.ts. The bounds themselves are in each manifest (core/manifest.ts, SERVICE_LIMITS). */
export const RESOURCE_LIMITS = {
  /** Between two looks at the agent's resident memory; a flood fills about 1 GB/s. */
  lookMs: 50,
  /** The same while memory rises. */
  lookFastMs: 10,
  /** Rise since the versions were last asked that makes it look and ask fast, MiB, and for how long. */
  risingMb: 8,
  alertMs: 500,
  /** Between two questions to each version while nothing rises. */
  askMs: 1_000,
  /** A worker that runs JavaScript answers within 2 ms, also in an endless loop. */
  muteMs: 25,
  /** CPU is judged over this long. Longer than a missed heartbeat takes: one that hangs is found by that. */
  cpuWindowMs: 10_000,
  /** The share shown is over this long. */
  cpuShownMs: 4_000,
  /** A rise of the agent's memory that nobody reports and somebody has to answer for, MiB. */
  jumpMb: 160,
  /** Growth of it that is taken for ordinary, MiB a second. */
  riseMbPerSecond: 4,
  /**
   * A version that uses no more of a core for `idleMs` is idle, and collects its garbage after so much work: a start takes 100 to 200 ms. The kernel
   * counts a process in steps of 10 ms, so that 1 % a second is one heartbeat. What a worker serves at this rate, 300 calls a second, can bear
   * a pause of 30 ms every `collectPauseMs`.
   */
  idlePercentMax: 1.5,
  collectWorkMs: 50,
  idleMs: 4_500,
  /** A little less than `askMs`, which is the rhythm of the readings. */
  readMs: 900,
  collectPauseMs: 30_000,
} as const

/** The same for the agent's main thread, which takes 1 % to look after four services, and 60 to 120 ms to collect. */
export const AGENT_IDLE = { idlePercentMax: 3, collectWorkMs: 500, readMs: 900, idleMs: 4_500, collectPauseMs: 30_000 } as const

/** Bounds of the supervisor. Tests pass shorter ones. */
export const SUPERVISOR_LIMITS = {
  /** From spawning a worker to serving; design.md, "Deadlines". */
  startTimeoutMs: 30_000,
  /** For in-flight unary calls to finish, and again for the service's own quiesce. */
  quiesceTimeoutMs: 10_000,
  /** A service that is told to stop; then its worker is ended. */
  stopTimeoutMs: 5_000,
  /** How long calls are held at a swap, from the first held to the flip. Clients wait 30 s by default. */
  holdTimeoutMs: 5_000,
  /** The version being reverted has this long to hand its state over; clients are waiting. */
  revertTimeoutMs: 1_000,
  /** Calls and their bytes held for one service; twice the count is refused at once, also while a swap is being undone. */
  heldCallsMax: 1_024,
  heldBytesMax: 16 * 1024 * 1024,
  /** A call to a service that is starting again after a crash waits this long. */
  downHoldTimeoutMs: 2_000,
  /** Calls under way in one worker. */
  callsMax: 1_024,
  /** Of them by one principal: nobody alone keeps the others out. */
  callsPerPrincipalMax: 512,
  /** Capability operations under way for one worker. */
  capabilitiesMax: 64,
  healthIntervalMs: 1_000,
  /** A worker that has not answered its health call by then hangs. */
  heartbeatTimeoutMs: 5_000,
  /** Crashes forgiven within the window; one more and the service stays down. OTP's burst and window. */
  restartsBurst: 5,
  restartsWindowMs: 60_000,
  backoffFirstMs: 200,
  backoffMaxMs: 10_000,
  /** Young generation of a worker's heap, MiB: small, since most services idle. */
  youngGenerationMbMax: 3,
  ...RESOURCE_LIMITS,
} as const

export type ResourceLimits = { readonly [K in keyof typeof RESOURCE_LIMITS]: number }
export type SupervisorLimits = { readonly [K in keyof typeof SUPERVISOR_LIMITS]: number }

/** Transitions kept per service. */
export const HISTORY_MAX = 64
