/** The `secrets` service: new API keys and certificates for the device, without a dropped connection. It never sees a private key. */
import { type RotateIdentityRequest, type RotateIdentityResponseInit, SecretsMethods, type SecretsStatusInit } from '../../proto/gen/secrets.ts'
import { bidi, type Call, type Health, type KeystoreCapability, OffboxError, type Service, type ServiceContext, unary } from '../sdk/service.ts'

const confirmTimeoutMinMs = 5_000
const confirmTimeoutMaxMs = 3_600_000
const confirmTimeoutDefaultMs = 60_000
const reasonCharsMax = 1024
const chainPemBytesMax = 16 * 1024
/** For the caller to send its next message; while it is awaited no other rotation can begin. */
const stepTimeoutMs = 60_000

export const create = (): Service<null> => new Secrets()

class Secrets implements Service<null> {
  readonly methods = [
    bidi(SecretsMethods.RotateIdentity, (requests, call) => this.#rotate(requests, call)),
    unary(SecretsMethods.Status, async () => await this.#status()),
  ]
  #ctx: ServiceContext | undefined
  /** The keystore holds one request at a time: a second stream would take the key of the first away. */
  #rotating = false
  #failure = ''

  check(): null {
    return null
  }

  async start(_: null, ctx: ServiceContext): Promise<void> {
    this.#ctx = ctx
  }

  async stop(): Promise<void> {
    this.#ctx = undefined
  }

  /** The device has an identity, and the keystore answers. */
  async selfTest(): Promise<void> {
    await this.#status()
  }

  health(): Health {
    const evidence = { rotating: this.#rotating ? 1 : 0, keystoreAnswers: this.#failure === '' ? 1 : 0 }
    if (this.#failure !== '') return { status: 'degraded', reason: `the keystore failed: ${this.#failure}`, evidence }
    return { status: 'healthy', evidence }
  }

  async *#rotate(requests: AsyncIterable<RotateIdentityRequest>, { principal }: Call): AsyncGenerator<RotateIdentityResponseInit> {
    if (this.#rotating) throw new OffboxError('SWAP_IN_PROGRESS', 'another rotation is under way')
    this.#rotating = true
    try {
      const steps = requests[Symbol.asyncIterator]()
      const { confirmTimeoutMs, reason } = beginOf(await inTime(steps.next()))
      const keystore = this.#keystore()
      const { provisional, changeId: other } = await keystore.status()
      if (provisional) throw new OffboxError('SWAP_IN_PROGRESS', `change ${other} is not confirmed yet`)
      const { requestId, csrPem } = await keystore.request()
      yield { csrPem }
      const chainPem = chainOf(await inTime(steps.next()))
      const { changeId, serial, notAfterMs } = await keystore.install({ requestId, chainPem, confirmTimeoutMs, reason, author: principal })
      this.#context().log('info', 'identity installed, waiting for its confirm', { changeId, serial, confirmTimeoutMs })
      yield { installed: { changeId, serial, notAfterMs } }
    } finally {
      this.#rotating = false
    }
  }

  async #status(): Promise<SecretsStatusInit> {
    try {
      const status = await this.#keystore().status()
      this.#failure = ''
      return status
    } catch (error) {
      this.#failure = error instanceof Error ? error.message : String(error)
      throw error
    }
  }

  #context(): ServiceContext {
    if (!this.#ctx) throw new OffboxError('SERVICE_DOWN', 'secrets is not started')
    return this.#ctx
  }

  #keystore(): KeystoreCapability {
    const { keystore } = this.#context().capabilities
    if (!keystore) throw new OffboxError('CAPABILITY_DENIED', 'secrets needs the capability keystore')
    return keystore
  }
}

async function inTime<T>(step: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new OffboxError('DEADLINE_PASSED', `the next message did not come within ${stepTimeoutMs} ms`)), stepTimeoutMs)
  })
  try {
    return await Promise.race([step, late])
  } finally {
    clearTimeout(timer)
  }
}

function beginOf(step: IteratorResult<RotateIdentityRequest>): { confirmTimeoutMs: number; reason: string } {
  const begin = step.done ? undefined : step.value.begin
  if (!begin) throw new OffboxError('ARGUMENT_INVALID', 'the first message must be begin')
  const { confirmTimeoutMs = confirmTimeoutDefaultMs, reason } = begin
  if (confirmTimeoutMs < confirmTimeoutMinMs || confirmTimeoutMs > confirmTimeoutMaxMs) {
    throw new OffboxError('ARGUMENT_INVALID', `confirm_timeout_ms must be ${confirmTimeoutMinMs} to ${confirmTimeoutMaxMs}`)
  }
  if (reason.length > reasonCharsMax) throw new OffboxError('ARGUMENT_INVALID', `reason must have at most ${reasonCharsMax} characters`)
  return { confirmTimeoutMs, reason }
}

function chainOf(step: IteratorResult<RotateIdentityRequest>): string {
  const chainPem = step.done ? undefined : step.value.certificateChainPem
  if (!chainPem) throw new OffboxError('ARGUMENT_INVALID', 'the second message must be certificate_chain_pem')
  if (chainPem.length > chainPemBytesMax) throw new OffboxError('CERTIFICATE_INVALID', `the chain has more than ${chainPemBytesMax} bytes`)
  return chainPem
}
