/** For tests of services: other services of the device, as their handlers in this process. A small working client, no network, no agent. */
import { OffboxError } from '../../core/errors.ts'
import { apiOf, type Manifest } from '../../core/manifest.ts'
import type { Served, ServiceClient } from './service.ts'
import { testClient } from './testing-calls.ts'

export interface FakeServicesOptions {
  /** Who calls: its principal, and the APIs it may call. */
  readonly caller: Pick<Manifest, 'name' | 'requires'>
  /** Handlers made with `unary`, `serverStream`, `clientStream` and `bidi` of service.ts. What is not here is SERVICE_DOWN. */
  readonly served: readonly Served[]
}

export function fakeServices({ caller, served }: FakeServicesOptions): ServiceClient {
  return testClient({
    principal: `spiffe://lab/service/${caller.name}`,
    find: <K extends Served['kind']>(path: string, kind: K) => {
      if (!Object.hasOwn(caller.requires?.apis ?? {}, apiOf(path))) throw new OffboxError('CAPABILITY_DENIED', `the manifest does not require ${apiOf(path)}`)
      const found = served.find((one) => one.path === path && one.kind === kind)
      if (!found) throw new OffboxError('SERVICE_DOWN', `nothing serves ${path} in this test`)
      return found as Extract<Served, { kind: K }>
    },
  })
}
