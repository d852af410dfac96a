/** Gives a device a new API key and certificate: the device makes the key, the fleet CA signs, a connection that saw it confirms. */
import { OffboxError } from '../../core/errors.ts'
import { type CertificateAuthority, signCsr } from '../../core/x509.ts'
import { SecretsMethods } from '../../proto/gen/secrets.ts'
import { deviceCertificateValidMs } from '../enrol/enrol.ts'
import type { DeviceRecord } from './record.ts'
import { type Dialer, type DeviceSession, SESSION_LIMITS, withSession } from './session.ts'

/** The device undoes the rotation when it is not confirmed within this. */
const confirmTimeoutMs = 60_000

export interface Rotation {
  /** Serial numbers of the certificates, hex. */
  readonly oldSerial: string
  readonly newSerial: string
}

/** @throws DEVICE_UNREACHABLE, METHOD_NOT_FOUND (`secrets` is not installed), and those of Secrets.RotateIdentity */
export async function rotateIdentity(
  input: { dialer: Dialer; ca: CertificateAuthority; nowMs: number },
  record: DeviceRecord,
  reason: string,
): Promise<Rotation> {
  const { dialer } = input
  const installed = await withSession(dialer, record, async (session) => {
    const oldSerial = (await session.info()).certificateSerial
    return { oldSerial, ...(await exchange(session, input, record, reason)) }
  })
  return await withSession(dialer, record, async (fresh) => {
    const seen = await fresh.info()
    if (seen.certificateSerial !== installed.serial) {
      throw new OffboxError(
        'CERTIFICATE_INVALID',
        `a new connection to ${record.deviceId} saw certificate ${seen.certificateSerial}, not ${installed.serial}; the device goes back to the one before`,
      )
    }
    await fresh.confirm(installed.changeId)
    return { oldSerial: installed.oldSerial, newSerial: installed.serial }
  })
}

async function exchange(
  session: DeviceSession,
  input: { dialer: Dialer; ca: CertificateAuthority; nowMs: number },
  record: DeviceRecord,
  reason: string,
): Promise<{ changeId: string; serial: string }> {
  const call = session.client.bidi(SecretsMethods.RotateIdentity, { deadlineMs: SESSION_LIMITS.applyTimeoutMs })
  // The answers are read from the start, so that an error of the device is seen whatever is sent.
  const answers = call.responses[Symbol.asyncIterator]()
  try {
    await call.send({ begin: { confirmTimeoutMs, reason } })
    const first = await answers.next()
    const csrPem = first.done ? undefined : first.value.csrPem
    if (!csrPem) throw new OffboxError('CSR_INVALID', `${record.deviceId} answered no certificate request`)
    const { fleet } = input.dialer.anchors
    const names = { fleet, role: 'device' as const, id: record.deviceId, validMs: deviceCertificateValidMs, nowMs: input.nowMs }
    await call.send({ certificateChainPem: await signCsr(input.ca, csrPem, names) })
    const second = await answers.next()
    const installed = second.done ? undefined : second.value.installed
    if (!installed) throw new OffboxError('CERTIFICATE_INVALID', `${record.deviceId} did not answer that the certificate is installed`)
    call.end()
    return installed
  } finally {
    call.cancel()
  }
}
