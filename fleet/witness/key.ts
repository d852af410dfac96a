/** The witness's own key: sealed under a passphrase, like those of the repository, in the witness's directory. */
import { OffboxError } from '../../core/errors.ts'
import type { SigningKey } from '../home/keys.ts'
import { deriveKey, makeKeyFile, newKdf, openKeyFile, readKeyFiles, signingKeyOf } from '../trust/key-file.ts'
import type { PassphraseSource } from '../trust/passphrase.ts'

const ROLE = 'witness'

/** @returns the key, made now or before. @throws HOME_INVALID, STORE_CORRUPT, ARGUMENT_INVALID */
export async function makeWitnessKey(directory: string, passphrases: PassphraseSource): Promise<SigningKey> {
  if ((await readKeyFiles(directory)).length > 0) return await openWitnessKey(directory, passphrases)
  const kdf = newKdf()
  const wrapping = { key: await deriveKey(await passphrases.create('the witness key'), kdf), kdf }
  return signingKeyOf((await makeKeyFile(directory, ROLE, wrapping)).seed)
}

/** @throws HOME_INVALID there is none, it is open to others, or no passphrase opens it; STORE_CORRUPT */
export async function openWitnessKey(directory: string, passphrases: PassphraseSource): Promise<SigningKey> {
  const file = (await readKeyFiles(directory)).find(({ role }) => role === ROLE)
  if (!file) throw new OffboxError('HOME_INVALID', `${directory} holds no witness key: run offbox witness init`)
  for (let attempt = 0; ; attempt++) {
    const passphrase = await passphrases.get('the witness key', attempt)
    if (passphrase === null) throw new OffboxError('HOME_INVALID', `no passphrase given opens ${file.path}`)
    const seed = openKeyFile(file, await deriveKey(passphrase, file.kdf))
    if (seed) return signingKeyOf(seed)
  }
}
