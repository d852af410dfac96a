/** For tests of services: calls of handlers in this process, held to what the hosts of caller and callee check. */
import { OffboxError } from '../../core/errors.ts'
import type { Method, Plain } from '../../proto/codec.ts'
import { binaryOf, isCallField, textOf, toFields } from './metadata.ts'
import type { Call, CallOptions, Served, ServiceClient } from './service.ts'
import { exactCopy, WIRE_LIMITS } from './wire.ts'

const { cursorCharsMax, messageBytesMax, metadataCharsMax, metadataKeysMax } = WIRE_LIMITS

export interface TestCaller {
  readonly principal: string
  /** Aborts every call. */
  readonly signal?: AbortSignal
  /** What serves a method. @throws OffboxError nothing does, or it may not be called */
  find<K extends Served['kind']>(path: string, kind: K): Extract<Served, { kind: K }>
}

export function testClient(caller: TestCaller): ServiceClient {
  return {
    unary: async (method, request, options) => {
      const { call, answer } = testCall(caller, options)
      return method.response.decode(answer(await caller.find(method.path, 'unary').handle(encoded(method, request), call)))
    },
    clientStream: async (method, requests, options) => {
      const { call, answer } = testCall(caller, options)
      return method.response.decode(answer(await caller.find(method.path, 'clientStream').handle(encodeAll(method, requests), call)))
    },
    serverStream: (method, request, options) =>
      replies(method, caller, options, (call) => caller.find(method.path, 'serverStream').handle(encoded(method, request), call)),
    bidi: (method, requests, options) => replies(method, caller, options, (call) => caller.find(method.path, 'bidi').handle(encodeAll(method, requests), call)),
  }
}

/** Leaving the loop cancels the call. */
async function* replies<Req, Res>(
  method: Method<Req, Res>,
  caller: TestCaller,
  options: CallOptions | undefined,
  open: (call: Call) => AsyncIterable<Uint8Array>,
): AsyncGenerator<Plain<Res>> {
  const cancel = new AbortController()
  const { call, answer } = testCall(caller, options, cancel.signal)
  try {
    for await (const bytes of open(call)) yield method.response.decode(answer(bytes))
  } finally {
    cancel.abort(new OffboxError('DEADLINE_PASSED', 'the caller has gone'))
  }
}

/**
 * What a handler is given. `answer` passes on what it gives, as far as it may.
 * @throws ARGUMENT_INVALID, LIMIT_REACHED options that a caller may not give; DEADLINE_PASSED it was cancelled before it began
 */
function testCall(
  { principal, signal: stopping }: TestCaller,
  { signal, timeoutMs, metadata = {} }: CallOptions = {},
  cancel?: AbortSignal,
): { call: Call; answer: (bytes: unknown) => Uint8Array } {
  if (signal?.aborted) throw new OffboxError('DEADLINE_PASSED', 'the call was cancelled before it began')
  if (timeoutMs !== undefined && !(timeoutMs >= 0)) throw new OffboxError('ARGUMENT_INVALID', 'timeoutMs must be a number of milliseconds')
  requireCallFields(metadata)
  let begun = false
  const call: Call = {
    principal,
    metadata: textOf(metadata),
    binaryMetadata: binaryOf(metadata),
    signal: AbortSignal.any([stopping, signal, cancel].filter((one) => one !== undefined)),
    sendMetadata: (own) => {
      toFields(own)
      if (begun) throw new TypeError('initial metadata comes before the first message, and once')
      begun = true
    },
    setTrailers: (own) => void toFields(own),
    mark: requireCursor,
    begin: requireCursor,
    ...(timeoutMs === undefined ? {} : { deadlineMs: Date.now() + timeoutMs }),
  }
  const answer = (bytes: unknown) => {
    begun = true
    if (!(bytes instanceof Uint8Array)) throw new TypeError('a handler must answer with a Uint8Array')
    return exactCopy(bounded(bytes))
  }
  return { call, answer }
}

function requireCallFields(metadata: Readonly<Record<string, string>>): void {
  const entries = Object.entries(metadata)
  const bad = entries.find(([key, value]) => !isCallField(key, value, metadataCharsMax))
  if (bad) throw new OffboxError('ARGUMENT_INVALID', `metadata ${JSON.stringify(bad[0].slice(0, 64))} cannot be sent`)
  if (entries.length > metadataKeysMax) throw new OffboxError('LIMIT_REACHED', `more than ${metadataKeysMax} keys of metadata`)
}

function requireCursor(cursor: unknown): void {
  if (typeof cursor === 'string' && cursor.length <= cursorCharsMax) return
  throw new OffboxError('LIMIT_REACHED', `a cursor is a text of up to ${cursorCharsMax} characters`)
}

function encoded<Req, Res>(method: Method<Req, Res>, request: Req): Uint8Array {
  return bounded(method.request.encode(request))
}

async function* encodeAll<Req, Res>(method: Method<Req, Res>, items: AsyncIterable<Req> | Iterable<Req>): AsyncGenerator<Uint8Array> {
  for await (const item of items) yield encoded(method, item)
}

function bounded(bytes: Uint8Array): Uint8Array {
  if (bytes.byteLength <= messageBytesMax) return bytes
  throw new OffboxError('LIMIT_REACHED', `a message of ${bytes.byteLength} bytes, more than ${messageBytesMax}`)
}
