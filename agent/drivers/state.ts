/** The `state` capability: a directory a service, a file a value. */
import { join } from 'node:path'
import { OffboxError } from '../../core/errors.ts'
import type { AtomicFiles } from '../store/atomic.ts'
import { Input } from './input.ts'
import { type Operations, Serial } from './types.ts'

export const stateValueBytesMax = 1024 * 1024
export const stateServiceBytesMax = 16 * 1024 * 1024
/** Keys of one service; bounds its directory when values are small. */
export const stateKeysMax = 1024

export interface ServiceState {
  readonly operations: Operations
  /** Removes all that a service kept; call when it is removed. */
  forget(service: string): Promise<void>
}

export function serviceState(files: AtomicFiles, stateDir: string): ServiceState {
  const root = join(stateDir, 'services')
  /** Writes of one service follow one another, so that its quota holds for calls at the same time. */
  const services = new Map<string, { serial: Serial; sizes: Map<string, number> | undefined }>()

  const of = (service: string) => {
    const known = services.get(service) ?? { serial: new Serial(), sizes: undefined }
    services.set(service, known)
    return known
  }
  const pathOf = (service: string, key: string) => join(root, service, key)

  async function sizesOf(service: string): Promise<Map<string, number>> {
    const known = of(service)
    if (known.sizes) return known.sizes
    const sizes = new Map<string, number>()
    for (const key of await files.list(join(root, service))) {
      try {
        sizes.set(key, (await files.read(pathOf(service, key)))?.length ?? 0)
      } catch (error) {
        // Set aside by the read: it holds no space under its key. The service learns of it when it asks for the value.
        if (!(error instanceof OffboxError && error.code === 'STORE_CORRUPT')) throw error
      }
    }
    known.sizes = sizes
    return sizes
  }

  async function set(service: string, key: string, value: Uint8Array): Promise<void> {
    const sizes = await sizesOf(service)
    let total = value.length
    for (const [other, sizeBytes] of sizes) total += other === key ? 0 : sizeBytes
    if (total > stateServiceBytesMax) throw new OffboxError('LIMIT_REACHED', `${service} would keep ${total} bytes of state, more than ${stateServiceBytesMax}`)
    if (!sizes.has(key) && sizes.size >= stateKeysMax) throw new OffboxError('LIMIT_REACHED', `${service} keeps ${stateKeysMax} values already`)
    await files.write(pathOf(service, key), value)
    sizes.set(key, value.length)
  }

  return {
    operations: {
      get: async (service, raw) => {
        const bytes = await files.read(pathOf(service, keyOf(new Input(raw))))
        // A copy of exact size: what is handed to a worker must not show the buffer it was cut from.
        return bytes === null ? null : new Uint8Array(bytes)
      },
      set: async (service, raw) => {
        const input = new Input(raw)
        const key = keyOf(input)
        const value = input.bytes('value', Number.MAX_SAFE_INTEGER)
        if (value.length > stateValueBytesMax) throw new OffboxError('LIMIT_REACHED', `a value has ${value.length} bytes, more than ${stateValueBytesMax}`)
        await of(service).serial.run(async () => await set(service, key, value))
      },
      delete: async (service, raw) => {
        const key = keyOf(new Input(raw))
        await of(service).serial.run(async () => {
          await files.remove(pathOf(service, key))
          of(service).sizes?.delete(key)
        })
      },
    },
    forget: async (service) => {
      await of(service).serial.run(async () => await files.removeTree(join(root, service)))
      services.delete(service)
    },
  }
}

function keyOf(input: Input): string {
  const key = input.text('key', 64)
  // It becomes a file name.
  if (!/^[a-z0-9-]{1,64}$/.test(key)) throw new OffboxError('ARGUMENT_INVALID', 'key must match [a-z0-9-]{1,64}')
  return key
}
