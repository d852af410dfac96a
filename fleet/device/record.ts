/** What the controller keeps of one device: a JSON file of this shape, checked when it is read. */
import { OffboxError } from '../../core/errors.ts'
import { isServiceName } from '../../core/manifest.ts'

export const PHASES = ['registered', 'enrolled', 'reconciling', 'in-sync', 'unknown', 'failed'] as const
export type Phase = (typeof PHASES)[number]

export interface DesiredService {
  readonly service: string
  readonly version: string
}

export interface Desirer {
  /** SPIFFE id. */
  readonly principal: string
  readonly atMs: number
}

/** A version that did not survive on this device. It is not tried there again until somebody asks for it anew. */
export interface FailedVersion {
  readonly version: string
  /** In words. */
  readonly reason: string
  readonly atMs: number
}

export interface DeviceRecord {
  readonly schema: 1
  readonly deviceId: string
  readonly serial: string
  readonly mac: string
  /** Empty until it enrolled. */
  readonly address: string
  readonly port: number
  readonly phase: Phase
  readonly reason: string
  readonly enrolledAtMs: number
  readonly enrolments: number
  readonly bootId: string
  readonly boot: string
  readonly inSyncAtMs: number
  readonly powerOnToEnrolMs: number
  readonly desired: {
    readonly services: readonly DesiredService[]
    /** RoutingConfig, encoded, base64; empty: none is set. */
    readonly routingConfig: string
  }
  /** Who wanted what is desired, by service; records of earlier controllers do not say. */
  readonly desiredBy?: Readonly<Record<string, Desirer>>
  readonly routingDesiredBy?: Desirer | null
  /** Services that were desired and are no longer: the controller removes these, and no others. */
  readonly dismissed: readonly string[]
  /** By service. */
  readonly failures: Readonly<Record<string, FailedVersion>>
}

/** The record's word on who wanted what, after `by` wants `desired`: what stays as it was is still of whoever wanted it first. */
export function desirersOf(
  before: DeviceRecord,
  desired: DeviceRecord['desired'],
  by: Desirer,
): Required<Pick<DeviceRecord, 'desiredBy' | 'routingDesiredBy'>> {
  const names = desired.services.flatMap(({ service, version }) => {
    const same = before.desired.services.some((one) => one.service === service && one.version === version)
    const who = same ? before.desiredBy?.[service] : by
    return who ? [[service, who] as const] : []
  })
  const sameRouting = before.desired.routingConfig === desired.routingConfig
  const routing = desired.routingConfig === '' ? null : sameRouting ? (before.routingDesiredBy ?? null) : by
  return { desiredBy: Object.fromEntries(names), routingDesiredBy: routing }
}

/** Facts of a registration. */
export interface Registration {
  readonly deviceId: string
  readonly serial: string
  readonly mac: string
}

export function newRecord(registration: Registration): DeviceRecord {
  return {
    schema: 1,
    ...registration,
    address: '',
    port: 0,
    phase: 'registered',
    reason: 'it has never enrolled',
    enrolledAtMs: 0,
    enrolments: 0,
    bootId: '',
    boot: '',
    inSyncAtMs: 0,
    powerOnToEnrolMs: 0,
    desired: { services: [], routingConfig: '' },
    dismissed: [],
    failures: {},
  }
}

/** @throws ARGUMENT_INVALID with the field and its rule */
export function checkRegistration(input: Registration): Registration {
  const mac = input.mac.toLowerCase()
  if (!isDeviceId(input.deviceId)) throw invalid('device_id', 'a slug: [a-z][a-z0-9-]{0,39}', input.deviceId)
  if (!/^[\x21-\x7e](?:[\x20-\x7e]{0,62}[\x21-\x7e])?$/.test(input.serial)) throw invalid('serial', '1 to 64 printable characters', input.serial)
  if (!isMac(mac)) throw invalid('mac', 'six bytes in hex with colons, unicast, e.g. 52:54:00:0b:00:01', input.mac)
  return { deviceId: input.deviceId, serial: input.serial, mac }
}

export function isDeviceId(id: unknown): id is string {
  return typeof id === 'string' && /^[a-z][a-z0-9-]{0,39}$/.test(id)
}

function isMac(mac: string): boolean {
  // The lowest bit of the first byte marks a group address, which no interface has.
  return /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(mac) && (Number.parseInt(mac.slice(0, 2), 16) & 1) === 0
}

function invalid(field: string, rule: string, got: string): OffboxError {
  return new OffboxError('ARGUMENT_INVALID', `${field} must be ${rule}; got ${JSON.stringify(got.slice(0, 80))}`)
}

/**
 * Reads a record from its file's text.
 * @throws STORE_CORRUPT not JSON, or a field of a wrong kind (named)
 */
export function parseRecord(text: string, deviceId: string): DeviceRecord {
  const corrupt = (why: string, cause?: unknown) => new OffboxError('STORE_CORRUPT', `the record of ${deviceId} cannot be used: ${why}`, { cause })
  let raw: DeviceRecord
  try {
    raw = JSON.parse(text)
  } catch (error) {
    throw corrupt('it is not JSON', error)
  }
  if (typeof raw !== 'object' || raw === null || raw.schema !== 1) throw corrupt('schema must be 1')
  if (raw.deviceId !== deviceId) throw corrupt(`it is about ${JSON.stringify(raw.deviceId)}`)
  for (const field of ['serial', 'mac', 'address', 'reason', 'bootId', 'boot'] as const) {
    if (typeof raw[field] !== 'string') throw corrupt(`${field} must be text`)
  }
  for (const field of ['port', 'enrolledAtMs', 'enrolments', 'inSyncAtMs', 'powerOnToEnrolMs'] as const) {
    if (!Number.isFinite(raw[field]) || raw[field] < 0) throw corrupt(`${field} must be a number`)
  }
  if (!PHASES.includes(raw.phase)) throw corrupt(`phase must be of ${PHASES.join(', ')}`)
  const { services, routingConfig } = raw.desired ?? {}
  const isService = (one: DesiredService) => isServiceName(one?.service) && typeof one.version === 'string'
  if (!Array.isArray(services) || !services.every(isService)) throw corrupt('desired.services must list services with versions')
  if (typeof routingConfig !== 'string') throw corrupt('desired.routingConfig must be text')
  if (!Array.isArray(raw.dismissed) || !raw.dismissed.every(isServiceName)) throw corrupt('dismissed must list services')
  const isDesirer = (one: Desirer | null | undefined) => typeof one?.principal === 'string' && Number.isFinite(one.atMs)
  if (!Object.values(raw.desiredBy ?? {}).every(isDesirer)) throw corrupt('desiredBy must name principals and times')
  if (raw.routingDesiredBy && !isDesirer(raw.routingDesiredBy)) throw corrupt('routingDesiredBy must name a principal and a time')
  if (typeof raw.failures !== 'object' || raw.failures === null) throw corrupt('failures must be a map')
  return raw
}
