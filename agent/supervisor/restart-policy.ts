/** Whether and when a worker that ended starts again. Pure: clock and chance are arguments. */
import type { SupervisorLimits } from './limits.ts'

export interface ExitVerdict {
  readonly event: 'exit' | 'exitFinal'
  /** Before the next start; 0 with exitFinal. */
  readonly delayMs: number
  /** To pass as `crashesAtMs` next time: those within the window. */
  readonly crashesAtMs: readonly number[]
}

/**
 * A burst is forgiven, and so is everything older than the window; the pause doubles within it.
 * @param crashesAtMs earlier crashes, monotonic milliseconds
 * @param chance      0 to 1: takes up to half off the pause, so that services felled together do not rise together
 */
export function judgeExit(crashesAtMs: readonly number[], nowMs: number, chance: number, limits: SupervisorLimits): ExitVerdict {
  const recent = [...crashesAtMs.filter((atMs) => nowMs - atMs < limits.restartsWindowMs), nowMs]
  if (recent.length > limits.restartsBurst) return { event: 'exitFinal', delayMs: 0, crashesAtMs: recent }
  const fullMs = Math.min(limits.backoffMaxMs, limits.backoffFirstMs * 2 ** (recent.length - 1))
  return { event: 'exit', delayMs: fullMs * (1 - chance / 2), crashesAtMs: recent }
}
