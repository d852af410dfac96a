/** Which of a device's receipts put there what runs, and what was tried since. Pure. */
import type { ReceiptBody } from '../../core/receipt.ts'

/** What runs, as the device says. */
export interface Running {
  readonly version: string
  /** Of its manifest, hex; empty: not known. */
  readonly manifestSha256: string
  /** The version is live and not confirmed yet: it has no receipt. */
  readonly provisional: boolean
}

export interface Placement {
  /** The one that put it there; null: none of those kept did. */
  readonly receipt: ReceiptBody | null
  /** Why none did, or what contradicts it; empty: nothing. */
  readonly problem: string
  /** The problem is a contradiction and not a gap. */
  readonly contradicted: boolean
  /** The agent went back to this version by itself: the receipt that had brought it first, null when it is not kept. */
  readonly first: ReceiptBody | null
  /** Of the same service, behind it, and undone. Oldest first. */
  readonly undone: readonly ReceiptBody[]
}

/**
 * @param receipts of any services, oldest first, checked
 * @param running null: nobody was asked, so the newest confirmed receipt is taken at its word
 */
export function placementOf(receipts: readonly ReceiptBody[], service: string, running: Running | null): Placement {
  const own = receipts.filter((one) => one.service === service)
  const at = own.findLastIndex(({ outcome }) => outcome === 'confirmed')
  const newest = at < 0 ? null : (own[at] as ReceiptBody)
  const undone = own.slice(at + 1)
  const none = (problem: string, contradicted = false): Placement => ({ receipt: null, problem, contradicted, first: null, undone })
  if (running?.provisional) return none(`${running.version} is provisional: a change gets its receipt when it ends`)
  if (!newest) return none(own.length === 0 ? `no receipt about ${service} is kept` : `no confirmed change of ${service} is among the receipts kept`)
  if (running === null) return newest.kind === 'remove' ? none(`the newest receipt says that ${service} was removed`) : found(newest)
  if (newest.to !== running.version) {
    return none(`the newest confirmed receipt, of ${newest.changeId}, leaves ${newest.to || 'nothing'}; ${running.version} runs`, true)
  }
  const digest = newest.manifests.to
  if (digest !== '' && running.manifestSha256 !== '' && digest !== running.manifestSha256) {
    return { ...found(newest), problem: `the receipt names manifest ${digest}, and ${running.manifestSha256} runs`, contradicted: true }
  }
  return found(newest)

  function found(receipt: ReceiptBody): Placement {
    const first = receipt.author === 'agent' ? (own.slice(0, at).findLast((one) => one.to === receipt.to && one.outcome === 'confirmed') ?? null) : null
    return { receipt, problem: '', contradicted: false, first, undone }
  }
}
