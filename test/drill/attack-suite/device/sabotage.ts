/** Builds of the agent without one of its defences, for the proof that it was the one that held. */
import { readFile } from 'node:fs/promises'
import type { Plugin } from 'esbuild'
import type { DeviceDefence } from './judge.ts'

interface Change {
  readonly file: RegExp
  readonly from: string
  readonly to: string
}

/** A defence that is gone from the source is an error here, not a drill that passes. */
const CHANGES: Readonly<Record<DeviceDefence, readonly Change[]>> = {
  signatures: [
    { file: /\/core\/tuf\/signatures\.ts$/, from: 'if (count < role.threshold) {', to: 'if (count < 0) {' },
    { file: /\/@tufjs\/models\/dist\/metadata\.js$/, from: 'verifyDelegate(delegatedRole, delegatedMetadata) {', to: 'verifyDelegate() { return;' },
  ],
  expiry: [
    {
      file: /\/core\/trust\/time\.ts$/,
      from: 'return [...this.#marks].map(',
      to: 'return [...this.#marks].slice(0, 1).map(([source, mark]) => ({ source, nowMs: 0, keys: null })); [].map(',
    },
  ],
  'wall-clock': [{ file: /\/core\/trust\/time\.ts$/, from: 'nowMs: this.#now(mark), keys: mark.keys', to: 'nowMs: this.#clock.nowMs(), keys: mark.keys' }],
  witness: [{ file: /\/agent\/trust\/device-trust\.ts$/, from: "('without-store' as const)", to: "('never' as const)" }],
  policy: [{ file: /\/core\/policy\.ts$/, from: 'if (broken !== null) throw', to: 'if (false) throw' }],
  'bundle-signature': [
    {
      file: /\/core\/signing\.ts$/,
      from: 'if (key && !keyIds.has(keyId) && verifyEd25519(signed, signature, key)) keyIds.add(keyId)',
      to: 'if (key) keyIds.add(keyId)',
    },
  ],
  'upload-size': [{ file: /\/agent\/api\/upload\.ts$/, from: 'if (sizeBytes > bundleBytesMax) throw', to: 'if (false) throw' }],
}

export const DEVICE_DEFENCES = Object.keys(CHANGES) as DeviceDefence[]

export function withoutDefence(defence: DeviceDefence): Plugin[] {
  return CHANGES[defence].map(({ file, from, to }) => ({
    name: `without ${defence}`,
    setup: ({ onLoad }) =>
      onLoad({ filter: file }, async ({ path }) => {
        const text = await readFile(path, 'utf8')
        if (!text.includes(from)) throw new Error(`${path} no longer holds ${from}`)
        return { contents: text.replace(from, () => to), loader: path.endsWith('.ts') ? 'ts' : 'js' }
      }),
  }))
}
