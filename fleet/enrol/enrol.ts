/** Enrolment: signs the request of a device that somebody registered beforehand, and notes where it is. */
import type { Anchors } from '../../core/anchors.ts'
import type { Clock } from '../../core/clock.ts'
import { OffboxError } from '../../core/errors.ts'
import { type CertificateAuthority, signCsr } from '../../core/x509.ts'
import { EnrolMethods, type EnrolRequest, type EnrolResponseInit } from '../../proto/gen/enrol.ts'
import type { Carrier } from '../controller/carrier.ts'
import type { Inventory } from '../device/inventory.ts'
import type { DeviceRecord } from '../device/record.ts'
import { type Caller, type Route, unary } from '../rpc/server.ts'
import { RateLimit } from './rate.ts'

/** Devices come back for a new one at each boot and by rotation, long before. */
export const deviceCertificateValidMs = 30 * 24 * 60 * 60 * 1000

export const ENROL_LIMITS = {
  /** Requests from one address at once, and again after a pause: a device retries with a growing delay. */
  perAddressBurst: 20,
  perAddressPerSecond: 1,
  /** Requests in total: signing costs CPU, and a whole fleet may power on together. */
  totalBurst: 500,
  totalPerSecond: 50,
} as const

export interface EnrolParts {
  readonly anchors: Anchors
  readonly ca: CertificateAuthority
  readonly inventory: Inventory
  readonly clock: Clock
  /** Signed floors for the device; empty: none. */
  floors(): Promise<Uint8Array>
  /** What the device verifies by itself: metadata, policy, the witness's answer. Never fails. */
  readonly carrier: Pick<Carrier, 'enrolment'>
  log(level: 'info' | 'warn', message: string, fields: Record<string, unknown>): void
  /** After the enrolment is on record. */
  enrolled(record: DeviceRecord): void
}

/** Requests seen since the start, by outcome. */
export interface EnrolCounts {
  signed: number
  refused: number
  limited: number
}

export class Enrolment {
  readonly counts: EnrolCounts = { signed: 0, refused: 0, limited: 0 }
  readonly routes: readonly Route[]
  readonly #parts: EnrolParts
  readonly #perAddress: RateLimit
  readonly #total: RateLimit

  constructor(parts: EnrolParts) {
    this.#parts = parts
    this.#perAddress = new RateLimit({ burst: ENROL_LIMITS.perAddressBurst, perSecond: ENROL_LIMITS.perAddressPerSecond }, parts.clock)
    this.#total = new RateLimit({ burst: ENROL_LIMITS.totalBurst, perSecond: ENROL_LIMITS.totalPerSecond }, parts.clock)
    this.routes = [unary(EnrolMethods.Enrol, async (request, caller) => await this.#enrol(request, caller))]
  }

  async #enrol(request: EnrolRequest, caller: Caller): Promise<EnrolResponseInit> {
    const { anchors, ca, inventory, clock, log } = this.#parts
    const address = caller.peer.slice(0, caller.peer.lastIndexOf(':'))
    if (!this.#perAddress.take(address) || !this.#total.take('')) {
      this.counts.limited++
      throw new OffboxError('LIMIT_REACHED', 'too many enrolment requests; try again in a few seconds')
    }
    const found = inventory.find(request.serial, request.mac)
    if (!found) {
      this.counts.refused++
      const serial = request.serial.slice(0, 64)
      const mac = request.mac.slice(0, 17)
      log('warn', 'enrolment refused', { serial, mac, peer: caller.peer, refused: this.counts.refused })
      throw new OffboxError('DEVICE_NOT_REGISTERED', `no device with serial ${JSON.stringify(serial)} and MAC ${JSON.stringify(mac)} is registered`)
    }
    checkRequest(request)
    const nowMs = clock.nowMs()
    const names = { fleet: anchors.fleet, role: 'device' as const, id: found.deviceId, validMs: deviceCertificateValidMs, nowMs }
    const certificateChainPem = await signCsr(ca, request.csrPem, names)
    const record = await inventory.update(found.deviceId, (now) => ({
      address: request.address,
      port: request.port,
      boot: request.boot,
      bootId: request.bootId,
      enrolledAtMs: nowMs,
      enrolments: now.enrolments + 1,
      powerOnToEnrolMs: request.uptimeMs,
      inSyncAtMs: 0,
      phase: 'enrolled',
      reason: 'it has just enrolled and was not looked at yet',
    }))
    this.counts.signed++
    const { deviceId, enrolments, bootId } = record
    log('info', 'device enrolled', {
      deviceId,
      address: request.address,
      port: request.port,
      bootId,
      enrolments,
      agentVersion: request.agentVersion.slice(0, 64),
    })
    const [floors, carried] = await Promise.all([this.#parts.floors(), this.#parts.carrier.enrolment(request, deviceId)])
    this.#parts.enrolled(record)
    return { deviceId, fleet: anchors.fleet, certificateChainPem, floors, timeMs: nowMs, ...carried }
  }
}

/** The device says where it serves; it becomes the address that the controller dials, so it is looked at closely. */
function checkRequest(request: EnrolRequest): void {
  const octet = '(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])'
  if (!new RegExp(`^${octet}(\\.${octet}){3}$`).test(request.address)) throw new OffboxError('ARGUMENT_INVALID', 'address must be an IPv4 address')
  if (request.port < 1 || request.port > 65535) throw new OffboxError('ARGUMENT_INVALID', 'port must be 1 to 65535')
  if (!/^[0-9a-fA-F-]{1,64}$/.test(request.bootId)) throw new OffboxError('ARGUMENT_INVALID', 'boot_id must be hex, 1 to 64 digits')
  if (request.boot !== 'pxe' && request.boot !== 'local') throw new OffboxError('ARGUMENT_INVALID', 'boot must be "pxe" or "local"')
}
