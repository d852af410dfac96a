/** Receives one bundle: the order first, then bounded chunks, within a bounded time. */
import { bundleBytesMax } from '../../core/bundle-format.ts'
import type { Clock } from '../../core/clock.ts'
import { OffboxError } from '../../core/errors.ts'
import { isServiceName } from '../../core/manifest.ts'
import type { BundleUpload, InstallOrder } from '../../proto/gen/lifecycle.ts'
import type { ServiceOrder } from '../change/service-changes.ts'
import * as limits from '../limits.ts'
import { type Evidence, evidenceOf } from '../trust/evidence.ts'

export interface ReceivedUpload {
  readonly order: ServiceOrder
  /** Signed floors that came with the order; may be empty. */
  readonly floors: Uint8Array
  readonly evidence: Evidence
  readonly file: Uint8Array
}

/**
 * @throws ARGUMENT_INVALID the order is not the first message, or breaks a rule (named)
 * @throws LIMIT_REACHED a chunk or the bundle is too large
 * @throws DEADLINE_PASSED it took longer than uploadTimeoutMs
 */
export async function receiveUpload(
  requests: AsyncIterable<BundleUpload>,
  to: { kind: ServiceOrder['kind']; author: string; clock: Clock },
): Promise<ReceivedUpload> {
  const iterator = requests[Symbol.asyncIterator]()
  let disarm = () => {}
  const late = new Promise<never>((_, reject) => {
    const passed = () => reject(new OffboxError('DEADLINE_PASSED', `the upload took longer than ${limits.uploadTimeoutMs} ms`))
    disarm = to.clock.after(limits.uploadTimeoutMs, passed)
  })
  const next = async () => await Promise.race([iterator.next(), late])
  try {
    const first = await next()
    const order = first.done ? null : (first.value.order ?? null)
    if (!order) throw new OffboxError('ARGUMENT_INVALID', 'the first message must be the order')
    const checked = checkOrder(order, to)
    const chunks: Uint8Array[] = []
    let sizeBytes = 0
    for (let message = await next(); !message.done; message = await next()) {
      const chunk = message.value.chunk as Uint8Array | undefined
      if (message.value.order || !chunk) throw new OffboxError('ARGUMENT_INVALID', 'after the order only chunks may follow')
      if (chunk.length > limits.chunkBytesMax) throw new OffboxError('LIMIT_REACHED', `a chunk has ${chunk.length} bytes, more than ${limits.chunkBytesMax}`)
      sizeBytes += chunk.length
      if (sizeBytes > bundleBytesMax) throw new OffboxError('LIMIT_REACHED', `the bundle has more than ${bundleBytesMax} bytes`)
      chunks.push(chunk)
    }
    return { order: checked, floors: order.floors, evidence: evidenceOf(order), file: Buffer.concat(chunks) }
  } finally {
    disarm()
    late.catch(() => {})
  }
}

/** @throws ARGUMENT_INVALID with the field */
export function checkOrder(order: InstallOrder, to: { kind: ServiceOrder['kind']; author: string }): ServiceOrder {
  const { service, version, allowDowngrade, reason } = order
  if (!isServiceName(order.service)) throw new OffboxError('ARGUMENT_INVALID', 'order.service must be a slug of at most 40 characters')
  if (version === '' || version.length > 64) throw new OffboxError('ARGUMENT_INVALID', 'order.version must be a version of at most 64 characters')
  if (reason.length > limits.reasonCharsMax) throw new OffboxError('ARGUMENT_INVALID', `order.reason has more than ${limits.reasonCharsMax} characters`)
  const bakeMs = (order.bakeMs as number | undefined) ?? limits.bakeMsDefault
  const confirmTimeoutMs = (order.confirmTimeoutMs as number | undefined) ?? Math.max(limits.confirmTimeoutMsDefault, 2 * bakeMs)
  if (bakeMs > limits.bakeMsMax) throw new OffboxError('ARGUMENT_INVALID', `order.bake_ms must be at most ${limits.bakeMsMax}`)
  if (confirmTimeoutMs < limits.confirmTimeoutMsMin || confirmTimeoutMs > limits.confirmTimeoutMsMax) {
    throw new OffboxError('ARGUMENT_INVALID', `order.confirm_timeout_ms must be ${limits.confirmTimeoutMsMin} to ${limits.confirmTimeoutMsMax}`)
  }
  if (bakeMs >= confirmTimeoutMs) throw new OffboxError('ARGUMENT_INVALID', 'order.bake_ms must be less than confirm_timeout_ms, or nobody could confirm')
  const config = parseConfig(order.config)
  return { kind: to.kind, service, version, allowDowngrade, bakeMs, confirmTimeoutMs, config, reason, author: to.author }
}

function parseConfig(bytes: Uint8Array): unknown {
  if (bytes.length === 0) return undefined
  if (bytes.length > limits.configBytesMax) throw new OffboxError('LIMIT_REACHED', `order.config has ${bytes.length} bytes, more than ${limits.configBytesMax}`)
  try {
    return JSON.parse(Buffer.from(bytes).toString('utf8'))
  } catch (error) {
    throw new OffboxError('ARGUMENT_INVALID', 'order.config is not JSON', { cause: error })
  }
}
