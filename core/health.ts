/** What a service says about itself; shared by the SDK and the agent. */
export interface Health {
  readonly status: 'healthy' | 'degraded' | 'unhealthy'
  /** In words; required unless healthy. */
  readonly reason?: string
  /** The numbers the status rests on. */
  readonly evidence: Readonly<Record<string, number>>
}
