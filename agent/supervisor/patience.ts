import type { Clock } from '../../core/clock.ts'

const STEPS = 5

/**
 * Like `clock.after`, in steps: when this process itself stands still (a paused VM, a blocked event loop), the time it missed counts as
 * one step, and an answer that arrived meanwhile is read before somebody is declared dead.
 */
export function patiently(clock: Clock, delayMs: number, callback: () => void): () => void {
  let left = STEPS
  let cancel = () => {}
  const step = () => {
    if (left-- === 0) callback()
    else cancel = clock.after(delayMs / STEPS, step)
  }
  step()
  return () => cancel()
}
