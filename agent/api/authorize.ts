/** Who may call what: one table, default deny. Pure. */
import { OffboxError } from '../../core/errors.ts'

export type CallerRole = 'controller' | 'operator'

export interface Principal {
  /** SPIFFE id, e.g. spiffe://lab/operator/me */
  readonly spiffeId: string
  readonly role: string
  readonly id: string
}

const ALL: readonly CallerRole[] = ['controller', 'operator']

/** Methods of the agent itself. `mutates`: its intent is durably recorded before the effect. */
// biome-ignore format: a table
export const OWN_METHODS: Readonly<Record<string, { readonly roles: readonly CallerRole[]; readonly mutates: boolean }>> = {
  '/offbox.v1.Lifecycle/List':    { roles: ALL, mutates: false },
  '/offbox.v1.Lifecycle/Get':     { roles: ALL, mutates: false },
  '/offbox.v1.Lifecycle/Watch':   { roles: ALL, mutates: false },
  '/offbox.v1.Lifecycle/Receipts': { roles: ALL, mutates: false },
  '/offbox.v1.Lifecycle/Install': { roles: ALL, mutates: true  },
  '/offbox.v1.Lifecycle/Upgrade': { roles: ALL, mutates: true  },
  '/offbox.v1.Lifecycle/Confirm': { roles: ALL, mutates: true  },
  '/offbox.v1.Lifecycle/Revert':  { roles: ALL, mutates: true  },
  '/offbox.v1.Lifecycle/Remove':  { roles: ALL, mutates: true  },
  '/offbox.v1.Device/Info':       { roles: ALL, mutates: false },
  '/offbox.v1.Device/Logs':       { roles: ALL, mutates: false },
  '/offbox.v1.Device/Ping':       { roles: ALL, mutates: false },
  '/offbox.v1.Device/Metrics':    { roles: ALL, mutates: false },
  '/offbox.v1.Device/Reboot':     { roles: ALL, mutates: true  },
  '/offbox.v1.Trust/Status':      { roles: ALL, mutates: false },
  '/offbox.v1.Trust/Challenge':   { roles: ALL, mutates: false },
  '/offbox.v1.Trust/Attest':      { roles: ALL, mutates: true  },
  '/offbox.v1.Trust/Update':      { roles: ALL, mutates: true  },
  '/offbox.v1.Audit/Status':      { roles: ALL, mutates: false },
  '/offbox.v1.Audit/Tail':        { roles: ALL, mutates: false },
  // It changes nothing but what the log says of itself, and has to get through when the log is full.
  '/offbox.v1.Audit/Acknowledge': { roles: ['controller'], mutates: false },
  '/gnsi.acctz.v1.Acctz/RecordSubscribe':       { roles: ALL, mutates: false },
  '/gnsi.acctz.v1.AcctzStream/RecordSubscribe': { roles: ALL, mutates: false },
  '/grpc.health.v1.Health/Check': { roles: ALL, mutates: false },
  '/grpc.health.v1.Health/List':  { roles: ALL, mutates: false },
  '/grpc.health.v1.Health/Watch': { roles: ALL, mutates: false },
  '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo':      { roles: ALL, mutates: false },
  '/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo': { roles: ALL, mutates: false },
}

/** The gRPC services that the agent serves itself. */
export const OWN_APIS: readonly string[] = [...new Set(Object.keys(OWN_METHODS).map((path) => path.split('/')[1] ?? ''))]

/** Methods that services serve. What they change goes through the change engine, which records the intent. */
export const SERVICE_METHODS: { readonly roles: readonly CallerRole[]; readonly mutates: boolean } = { roles: ALL, mutates: false }

/** Whether a path belongs to a gRPC service that the agent serves itself, so that no bundle may claim it. */
export function isOwnMethod(path: string): boolean {
  return OWN_APIS.includes(path.split('/')[1] ?? '')
}

/**
 * The principal of a client certificate that the fleet CA issued.
 * @param subjectAltName as node:tls gives it, e.g. "URI:spiffe://lab/operator/me"
 * @returns null when it names no principal of this fleet, or more than one
 */
export function principalOf(subjectAltName: string | undefined, fleet: string): Principal | null {
  const uris = (subjectAltName ?? '').split(', ').filter((name) => name.startsWith('URI:'))
  const match = /^URI:(spiffe:\/\/([a-z][a-z0-9-]*)\/([a-z]+)\/([A-Za-z0-9._-]+))$/.exec(uris.length === 1 ? (uris[0] ?? '') : '')
  if (!match || match[2] !== fleet) return null
  return { spiffeId: match[1] ?? '', role: match[3] ?? '', id: match[4] ?? '' }
}

/** @throws ROLE_DENIED */
export function authorize(principal: Principal, path: string): { mutates: boolean } {
  const rule = Object.hasOwn(OWN_METHODS, path) ? OWN_METHODS[path] : isOwnMethod(path) ? undefined : SERVICE_METHODS
  if (rule?.roles.includes(principal.role as CallerRole)) return rule
  throw new OffboxError('ROLE_DENIED', `${principal.spiffeId} may not call ${path}`)
}
