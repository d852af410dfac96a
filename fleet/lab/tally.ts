/**
 * What a client saw of one device's numbered, stateful method. The number is the service's state: a new version that did not
 * inherit it would repeat numbers or begin again, a call carried out twice would leave a gap. Pure.
 */
export interface Tally {
  /** Calls answered. */
  calls: number
  /** Calls that ended with an error. */
  failed: number
  /** Numbers seen twice, or lower than one seen before: a lost hand-over. */
  duplicates: number
  /** Numbers never seen by the only caller: a call carried out twice or answered to nobody. */
  gaps: number
  /** Answers by version of the service. */
  byVersion: Record<string, number>
  /** Highest number seen; 0 before the first answer. */
  highest: number
  /** Text of the newest error. */
  lastError: string
}

export function newTally(): Tally {
  return { calls: 0, failed: 0, duplicates: 0, gaps: 0, byVersion: {}, highest: 0, lastError: '' }
}

/** Records one answer. Answers of one device must be recorded in the order in which they came. */
export function recordAnswer(tally: Tally, answer: { sequence: number; serviceVersion: string }): void {
  tally.calls++
  tally.byVersion[answer.serviceVersion] = (tally.byVersion[answer.serviceVersion] ?? 0) + 1
  if (answer.sequence <= tally.highest) {
    tally.duplicates++
    return
  }
  if (tally.highest > 0) tally.gaps += answer.sequence - tally.highest - 1
  tally.highest = answer.sequence
}

export function recordFailure(tally: Tally, message: string): void {
  tally.failed++
  tally.lastError = message
}
