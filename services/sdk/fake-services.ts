/** For tests of services: other services of the device, as their handlers in this process. A small working client, no network, no agent. */
import { OffboxError } from '../../core/errors.ts'
import { apiOf, type Manifest } from '../../core/manifest.ts'
import type { Method, Plain } from '../../proto/codec.ts'
import type { Call, CallOptions, Served, ServiceClient } from './service.ts'

export interface FakeServicesOptions {
  /** Who calls: its principal, and the APIs it may call. */
  readonly caller: Pick<Manifest, 'name' | 'requires'>
  /** Handlers made with `unary`, `serverStream`, `clientStream` and `bidi` of service.ts. What is not here is SERVICE_DOWN. */
  readonly served: readonly Served[]
}

export function fakeServices({ caller, served }: FakeServicesOptions): ServiceClient {
  const find = <K extends Served['kind']>({ path }: { path: string }, kind: K): Extract<Served, { kind: K }> => {
    if (!Object.hasOwn(caller.requires?.apis ?? {}, apiOf(path))) throw new OffboxError('CAPABILITY_DENIED', `the manifest does not require ${apiOf(path)}`)
    const found = served.find((one) => one.path === path && one.kind === kind)
    if (!found) throw new OffboxError('SERVICE_DOWN', `nothing serves ${path} in this test`)
    return found as Extract<Served, { kind: K }>
  }
  const about = ({ signal, timeoutMs, metadata = {} }: CallOptions = {}): Call => ({
    principal: `spiffe://lab/service/${caller.name}`,
    metadata,
    signal: signal ?? new AbortController().signal,
    mark: () => {},
    binaryMetadata: {},
    sendMetadata: () => {},
    setTrailers: () => {},
    begin: () => {},
    ...(timeoutMs === undefined ? {} : { deadlineMs: Date.now() + timeoutMs }),
  })
  return {
    unary: async (method, request, options) => method.response.decode(await find(method, 'unary').handle(method.request.encode(request), about(options))),
    clientStream: async (method, requests, options) =>
      method.response.decode(await find(method, 'clientStream').handle(encodeAll(method, requests), about(options))),
    serverStream: (method, request, options) => decodeAll(method, () => find(method, 'serverStream').handle(method.request.encode(request), about(options))),
    bidi: (method, requests, options) => decodeAll(method, () => find(method, 'bidi').handle(encodeAll(method, requests), about(options))),
  }
}

async function* encodeAll<Req, Res>(method: Method<Req, Res>, items: AsyncIterable<Req> | Iterable<Req>): AsyncGenerator<Uint8Array> {
  for await (const item of items) yield method.request.encode(item)
}

async function* decodeAll<Req, Res>(method: Method<Req, Res>, open: () => AsyncIterable<Uint8Array>): AsyncGenerator<Plain<Res>> {
  for await (const bytes of open()) yield method.response.decode(bytes)
}
