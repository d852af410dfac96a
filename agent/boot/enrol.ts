/**
 * How the device gets its certificate: it dials the controller that its image names, trusts only the fleet CA that its image
 * carries, and asks until it is answered. The private key never leaves the device.
 */
import { Client, credentials, Metadata, type ServiceError } from '@grpc/grpc-js'
import type { Anchors } from '../../core/anchors.ts'
import type { Clock } from '../../core/clock.ts'
import { ERROR_TRAILER, isErrorCode, messageOf, OffboxError } from '../../core/errors.ts'
import { floorsBytesMax } from '../../core/floors.ts'
import { policyBytesMax } from '../../core/policy.ts'
import { statementBytesMax } from '../../core/trust/statement.ts'
import { TUF_LIMITS } from '../../core/tuf/limits.ts'
import { chainPemBytesMax, makeCsr } from '../../core/x509.ts'
import { EnrolMethods, type EnrolRequestInit, type EnrolResponse } from '../../proto/gen/enrol.ts'
import type { AttestResponse } from '../../proto/gen/witness.ts'
import { enrolRetryMsMax, enrolRetryMsMin, enrolTimeoutMs } from '../limits.ts'
import type { Lesson } from '../trust/device-trust.ts'
import { evidenceOf } from '../trust/evidence.ts'
import { checkIdentity, type Identity } from './identity.ts'

export interface EnrolOptions {
  readonly controller: { readonly address: string; readonly port: number }
  readonly anchors: Anchors
  /** All of the request but the CSR, the time and the question. */
  readonly facts: Omit<EnrolRequestInit, 'csrPem' | 'uptimeMs' | 'challenge' | 'rootVersion'>
  /** Asked for each attempt: an answer that comes late is to another question. */
  readonly question: () => { readonly challenge: Uint8Array; readonly rootVersion: number }
  readonly uptimeMs: () => number
  readonly clock: Clock
  readonly log: { info(fields: object, message: string): void; warn(fields: object, message: string): void }
  /** 0 to 1, for jitter. */
  readonly chance?: () => number
}

export interface Enrolled {
  readonly identity: Identity
  /** Signed, unverified; may be empty. */
  readonly floors: Uint8Array
  /** Signed, unverified. */
  readonly lesson: Lesson
}

/**
 * Asks until it succeeds or `signal` aborts.
 * @param keyPem a key to keep; left out: a new one is made, the same for every attempt
 * @throws the signal's reason
 */
export async function enrol(options: EnrolOptions, signal: AbortSignal, keyPem?: string): Promise<Enrolled> {
  const { clock, log, chance = Math.random } = options
  const key = keyPem ?? (await makeCsr('device')).keyPem
  for (let retryMs = enrolRetryMsMin, attempt = 1; ; attempt += 1) {
    signal.throwIfAborted()
    try {
      return await enrolOnce(options, key)
    } catch (error) {
      const pauseMs = Math.round(retryMs * (0.5 + chance()))
      const { code, message } = error instanceof OffboxError ? error : { code: 'CONTROLLER_UNREACHABLE', message: messageOf(error) }
      log.warn({ attempt, code, error: message, pauseMs }, 'enrolment failed; trying again')
      await pause(clock, pauseMs, signal)
      retryMs = Math.min(retryMs * 2, enrolRetryMsMax)
    }
  }
}

/** @throws the controller's code, CONTROLLER_UNREACHABLE, CERTIFICATE_INVALID */
async function enrolOnce(options: EnrolOptions, keyPem: string): Promise<Enrolled> {
  const { anchors, clock, question } = options
  const { csrPem } = await makeCsr('device', keyPem)
  const response = await call(options, { ...options.facts, ...question(), csrPem, uptimeMs: Math.round(options.uptimeMs()) })
  const { deviceId, fleet, certificateChainPem: chainPem, floors } = response
  if (fleet !== anchors.fleet)
    throw new OffboxError('CERTIFICATE_INVALID', `the controller is of fleet ${JSON.stringify(fleet)}, this device of ${anchors.fleet}`)
  const identity: Identity = { deviceId, keyPem, chainPem }
  checkIdentity(identity, anchors, clock.nowMs())
  const answer = response.witness as AttestResponse | null
  const { evidence, witness } = { evidence: evidenceOf(response), witness: answer && { ...answer } }
  return { identity, floors, lesson: { witness, evidence } }
}

async function call({ controller, anchors }: EnrolOptions, request: EnrolRequestInit): Promise<EnrolResponse> {
  const { path, request: from, response: to } = EnrolMethods.Enrol
  const serverName = `controller.${anchors.fleet}.offbox`
  const client = new Client(`${controller.address}:${controller.port}`, credentials.createSsl(Buffer.from(anchors.caPem)), {
    'grpc.ssl_target_name_override': serverName,
    'grpc.default_authority': serverName,
    // A new connection for each attempt: backoff is ours.
    'grpc.use_local_subchannel_pool': 1,
    'grpc.max_receive_message_length': chainPemBytesMax + floorsBytesMax + TUF_LIMITS.pushBytesMax + policyBytesMax + statementBytesMax + 16 * 1024,
    'grpc.enable_retries': 0,
  })
  try {
    return await new Promise((resolve, reject) => {
      const answer = (error: ServiceError | null, value?: EnrolResponse) => (error || !value ? reject(asError(error)) : resolve(value))
      const serialize = (value: EnrolRequestInit) => Buffer.from(from.encode(value))
      client.makeUnaryRequest(path, serialize, (bytes: Buffer) => to.decode(bytes), request, new Metadata(), { deadline: Date.now() + enrolTimeoutMs }, answer)
    })
  } finally {
    client.close()
  }
}

function asError(error: ServiceError | null): OffboxError {
  const code = error?.metadata?.get(ERROR_TRAILER)[0]
  return new OffboxError(isErrorCode(code) ? code : 'CONTROLLER_UNREACHABLE', error?.details || messageOf(error), { cause: error })
}

async function pause(clock: Clock, delayMs: number, signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => {
    const done = () => {
      cancel()
      signal.removeEventListener('abort', done)
      resolve()
    }
    const cancel = clock.after(delayMs, done)
    signal.addEventListener('abort', done)
    if (signal.aborted) done()
  })
}
