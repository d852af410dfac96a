/** The witness as a process: its directory, its port, who may ask. */
import { join } from 'node:path'
import type { Clock } from '../../core/clock.ts'
import { OffboxError } from '../../core/errors.ts'
import type { TrustedKeys } from '../../core/signing.ts'
import { DEVICE_RULES } from '../../core/trust/rules.ts'
import { Verification } from '../../core/trust/verification.ts'
import { NO_DOCUMENTS, NO_SOURCE } from '../../core/trust/documents.ts'
import { makeIdentity } from '../../core/x509.ts'
import { WitnessMethods } from '../../proto/gen/witness.ts'
import type { Log } from '../controller/log.ts'
import { makeDirectory, readIfThere, writeAtomic } from '../home/atomic.ts'
import { type Home, readAnchors, readCa } from '../home/home.ts'
import { lockHome } from '../home/lock.ts'
import { RpcServer, unary } from '../rpc/server.ts'
import type { PassphraseSource } from '../trust/passphrase.ts'
import { makeWitnessKey, openWitnessKey } from './key.ts'
import { Witness } from './witness.ts'

/** Name in the witness's certificate. */
const WITNESS_ID = 'witness'
const CERTIFICATE_VALID_MS = 365 * 24 * 60 * 60 * 1000

export interface WitnessServer {
  readonly fleet: string
  readonly port: number
  /** For the image's anchors: keyId to raw 32 bytes. */
  readonly keys: TrustedKeys
  close(): Promise<void>
}

/**
 * Makes a witness's directory: its key, its certificate by the fleet CA, the root it trusts. Safe to repeat: the key stays, the certificate is
 * renewed, another root is refused.
 * @param root bytes of root metadata
 * @throws HOME_INVALID, TRUST_MALFORMED, TRUST_THRESHOLD, ARGUMENT_INVALID
 */
export async function initWitness(
  home: Home,
  directory: string,
  root: Uint8Array,
  passphrases: PassphraseSource,
): Promise<{ keyId: string; publicKey: Uint8Array }> {
  // A root that is not one would be found only when the first device asks.
  new Verification({ anchor: root, stored: NO_DOCUMENTS, source: NO_SOURCE, nowMs: () => 0, rules: DEVICE_RULES })
  const { fleet } = await readAnchors(home)
  await makeDirectory(directory)
  const before = await readIfThere(join(directory, 'root.json'))
  if (before && Buffer.compare(before, root) !== 0) throw new OffboxError('HOME_INVALID', `${directory} trusts another root`)
  const { keyId, publicKey } = await makeWitnessKey(directory, passphrases)
  const names = { fleet, role: 'service', id: WITNESS_ID, nowMs: Date.now(), validMs: CERTIFICATE_VALID_MS } as const
  const { keyPem, certificatePem } = await makeIdentity(await readCa(home), names)
  await writeAtomic(join(directory, 'tls.json'), JSON.stringify({ fleet, keyPem, certificatePem, caPem: (await readAnchors(home)).caPem }))
  await writeAtomic(join(directory, 'root.json'), root)
  return { keyId, publicKey }
}

/** @throws HOME_INVALID, HOME_IN_USE, STORE_CORRUPT, PORT_TAKEN */
export async function serveWitness(options: {
  directory: string
  address: string
  port: number
  passphrases: PassphraseSource
  clock: Clock
  log: Log
}): Promise<WitnessServer> {
  const { directory, address, clock, log } = options
  const { fleet, keyPem, certificatePem, caPem } = await readTls(directory)
  const key = await openWitnessKey(directory, options.passphrases)
  const release = await lockHome(join(directory, 'lock'), 'witness')
  try {
    const witness = await Witness.open({ directory, fleet, key, clock })
    const attest = unary(WitnessMethods.Attest, async ({ nonce, files }, { principal }) => {
      const statement = await witness.attest(nonce, { files: files.map(({ name, content }) => ({ name, bytes: content })) })
      log.info({ principal, files: files.length, heights: witness.heights }, 'witness attested')
      return statement
    })
    const server = new RpcServer({
      keyPem,
      certificatePem,
      clientCaPem: caPem,
      routes: [attest],
      admit: ({ principal }) => admit(fleet, principal),
      finished: (call) => log[call.outcome === 'OK' ? 'debug' : 'info']({ ...call, durationMs: Math.round(call.durationMs) }, 'call'),
      internal: (error, id, path) => log.error({ err: error, id, path }, 'internal error'),
      refused: (reason, peer) => log.warn({ reason, peer }, 'connection refused'),
    })
    const port = await server.listen(address, options.port)
    const close = async () => {
      await server.close()
      await release()
    }
    log.info({ fleet, address, port, keyId: key.keyId, heights: witness.heights }, 'witness serving')
    return { fleet, port, keys: new Map([[key.keyId, key.publicKey]]), close }
  } catch (error) {
    await release()
    throw error
  }
}

/** Controllers and operators carry questions; a device has none to ask by itself. */
function admit(fleet: string, principal: string): void {
  const roles = ['controller', 'operator'].map((role) => `spiffe://${fleet}/${role}/`)
  if (!roles.some((prefix) => principal.startsWith(prefix)))
    throw new OffboxError('ROLE_DENIED', `${principal || 'a caller without a name'} may not ask the witness`)
}

async function readTls(directory: string): Promise<{ fleet: string; keyPem: string; certificatePem: string; caPem: string }> {
  const bytes = await readIfThere(join(directory, 'tls.json'))
  if (!bytes) throw new OffboxError('HOME_INVALID', `${directory} is no witness's directory: run offbox witness init`)
  try {
    const { fleet, keyPem, certificatePem, caPem } = JSON.parse(bytes.toString('utf8')) as Record<string, unknown>
    if ([fleet, keyPem, certificatePem, caPem].every((text) => typeof text === 'string')) {
      return { fleet, keyPem, certificatePem, caPem } as Awaited<ReturnType<typeof readTls>>
    }
  } catch {
    // The parser's message would quote a private key.
  }
  throw new OffboxError('HOME_INVALID', `${join(directory, 'tls.json')} cannot be used`)
}
