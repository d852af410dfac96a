/** The private keys at hand: those of the home and of the directories named, opened one by one as they are needed. */
import { mkdir } from 'node:fs/promises'
import { OffboxError } from '../../core/errors.ts'
import type { RoleKeys, TufKey } from '../../core/tuf/metadata.ts'
import { tufKeyId, tufKeyOf } from '../../core/tuf/keys.ts'
import type { TufSigner } from '../../core/tuf/signatures.ts'
import type { SigningKey } from '../home/keys.ts'
import { deriveKey, type KdfParameters, type KeyFile, makeKeyFile, newKdf, openKeyFile, readKeyFiles, signingKeyOf } from './key-file.ts'
import type { PassphraseSource } from './passphrase.ts'

/** A key that can sign metadata (by `keyid`) and bundles (by `bundleKey`, whose id is over the raw public key). */
export interface OpenKey extends TufSigner {
  readonly key: TufKey
  readonly bundleKey: SigningKey
}

/** One command's keys; not shared between commands. Sequential use only. */
export class KeyRing {
  readonly #directories: readonly string[]
  readonly #passphrases: PassphraseSource
  readonly #costLog2: number | undefined
  readonly #open = new Map<string, OpenKey>()
  /** By salt: what opened a file before, tried first on the next. */
  readonly #derived: { passphrase: string; kdf: KdfParameters; key: Uint8Array }[] = []
  readonly #avoided = new Set<string>()
  #wrapping: { key: Uint8Array; kdf: KdfParameters } | undefined

  /** @param directories the first is where new keys go unless said otherwise */
  constructor(directories: readonly string[], passphrases: PassphraseSource, options: { costLog2?: number } = {}) {
    this.#directories = directories
    this.#passphrases = passphrases
    this.#costLog2 = options.costLog2
  }

  /** Key files at hand, sealed. @throws HOME_INVALID, STORE_CORRUPT */
  async files(): Promise<KeyFile[]> {
    const found = await Promise.all([...new Set(this.#directories)].map(async (directory) => await readKeyFiles(directory)))
    return found.flat()
  }

  /** Uses this key only where no other is at hand: it is about to be revoked. */
  avoid(keyid: string): void {
    this.#avoided.add(keyid)
  }

  /**
   * As many keys of a role as it takes to reach its threshold, opened. Asks for no more passphrases than that.
   * @throws TRUST_THRESHOLD too few key files here; TRUST_KEY_LOCKED a passphrase does not open one
   */
  async signersFor(name: string, role: RoleKeys): Promise<OpenKey[]> {
    const files = (await this.files()).filter((file) => role.keyids.includes(file.keyid))
    const here = role.keyids.filter((keyid) => this.#open.has(keyid) || files.some((file) => file.keyid === keyid))
    if (here.length < role.threshold) {
      const needed = role.keyids.map((id) => id.slice(0, 16)).join(', ')
      const where = this.#directories.join(', ')
      throw new OffboxError('TRUST_THRESHOLD', `${name} needs ${role.threshold} of the keys ${needed}; the files of ${here.length} are in ${where}`)
    }
    // Those opened before, or made just now, cost nobody a passphrase.
    const cost = (keyid: string) => (this.#avoided.has(keyid) ? 2 : this.#open.has(keyid) ? 0 : 1)
    const signers: OpenKey[] = []
    let locked: unknown
    for (const keyid of here.sort((a, b) => cost(a) - cost(b))) {
      if (signers.length === role.threshold) break
      try {
        const file = files.find((one) => one.keyid === keyid)
        signers.push(this.#open.get(keyid) ?? (await this.#unlock(file as KeyFile)))
      } catch (error) {
        if (!(error instanceof OffboxError) || error.code !== 'TRUST_KEY_LOCKED') throw error
        locked = error
      }
    }
    if (signers.length < role.threshold) throw locked
    return signers
  }

  /** Makes keys for a role in `directory` (default: the first), sealed under a new passphrase's key. */
  async make(role: string, count: number, directories: readonly string[] = []): Promise<OpenKey[]> {
    const made: OpenKey[] = []
    for (let index = 0; index < count; index++) {
      const directory = directories[index % directories.length] ?? (this.#directories[0] as string)
      await mkdir(directory, { recursive: true, mode: 0o700 })
      this.#wrapping ??= await this.#newWrapping()
      const file = await makeKeyFile(directory, role, this.#wrapping)
      const key = openKey(file.seed)
      this.#open.set(key.keyid, key)
      made.push(key)
    }
    return made
  }

  async #newWrapping(): Promise<{ key: Uint8Array; kdf: KdfParameters }> {
    const passphrase = await this.#passphrases.create('new keys')
    const kdf = newKdf(this.#costLog2)
    const key = await deriveKey(passphrase, kdf)
    this.#derived.push({ passphrase, kdf, key })
    return { key, kdf }
  }

  async #unlock(file: KeyFile): Promise<OpenKey> {
    for (const passphrase of new Set(this.#derived.map((one) => one.passphrase))) {
      const seed = await this.#try(file, passphrase)
      if (seed) return this.#keep(seed)
    }
    for (let attempt = 0; ; attempt++) {
      const passphrase = await this.#passphrases.get(`the ${file.role} key ${file.keyid.slice(0, 16)}`, attempt)
      if (passphrase === null) throw new OffboxError('TRUST_KEY_LOCKED', `no passphrase given opens ${file.path}`)
      const seed = await this.#try(file, passphrase)
      if (seed) return this.#keep(seed)
    }
  }

  async #try(file: KeyFile, passphrase: string): Promise<Uint8Array | null> {
    const salted = (one: { passphrase: string; kdf: KdfParameters }) =>
      one.passphrase === passphrase && one.kdf.costLog2 === file.kdf.costLog2 && Buffer.compare(one.kdf.salt, file.kdf.salt) === 0
    let derived = this.#derived.find(salted)
    if (!derived) {
      derived = { passphrase, kdf: file.kdf, key: await deriveKey(passphrase, file.kdf) }
      this.#derived.push(derived)
    }
    return openKeyFile(file, derived.key)
  }

  #keep(seed: Uint8Array): OpenKey {
    const key = openKey(seed)
    this.#open.set(key.keyid, key)
    return key
  }
}

function openKey(seed: Uint8Array): OpenKey {
  const bundleKey = signingKeyOf(seed)
  const key = tufKeyOf(bundleKey.publicKey)
  return { keyid: tufKeyId(key), key, sign: bundleKey.sign, bundleKey }
}
