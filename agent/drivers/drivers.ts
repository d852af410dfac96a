/** The drivers together: capability by name, operation by name, function. Whatever is not in the table does not exist. */
import type { Anchors } from '../../core/anchors.ts'
import type { Clock } from '../../core/clock.ts'
import { OffboxError } from '../../core/errors.ts'
import type { Capability } from '../../core/manifest.ts'
import type { Identity, IdentityStore } from '../boot/identity.ts'
import type { ChangeEngine } from '../change/types.ts'
import type { AtomicFiles } from '../store/atomic.ts'
import { BirdDriver } from './bird.ts'
import { KeystoreDriver } from './keystore.ts'
import { linkOperations } from './link.ts'
import { procOperations } from './proc.ts'
import { serviceState } from './state.ts'
import type { DriverLog, Operations } from './types.ts'

export interface DriversOptions {
  readonly config: {
    readonly stateDir: string
    readonly runDir: string
    /** E.g. /usr/sbin/bird. */
    readonly birdCommand: string
    /** The device's management address: BIRD's router id before any configuration. */
    readonly address: string
  }
  readonly files: AtomicFiles
  readonly identities: IdentityStore
  readonly anchors: Anchors
  readonly changes: ChangeEngine
  readonly front: { rotate(identity: { keyPem: string; chainPem: string }): void }
  readonly clock: Clock
  readonly log: DriverLog
}

export interface Drivers {
  /** Once, after the engine is made and before its `recover`. Registers nothing: that happened when the drivers were made. */
  start(): Promise<void>
  /**
   * Carries one operation out. The caller has checked that the manifest of `service` names `capability`.
   * @throws CAPABILITY_DENIED no such operation; ARGUMENT_INVALID; and those of core/capabilities.ts
   */
  call(service: string, capability: string, operation: string, input: unknown): Promise<unknown>
  /** Stores what enrolment returned and puts it into service. @throws CERTIFICATE_INVALID, STORE_FULL */
  adoptIdentity(identity: Identity): Promise<void>
  /** Signs as this device; the key stays in the keystore. @throws STATE_REFUSED it has no identity yet */
  sign(bytesFor: (deviceId: string) => Uint8Array): { signature: Uint8Array; chainPem: string }
  /** Removes what the drivers keep for a service that is removed. What it set in BIRD stays: traffic must not end with it. */
  forget(service: string): Promise<void>
  /** Ends every watch. BIRD keeps running for the next agent, unless `stopBird`. */
  close(options?: { stopBird?: boolean }): Promise<void>
}

/** Makes the drivers and registers their handlers for "config" and "certificate" changes. */
export function createDrivers(options: DriversOptions): Drivers {
  const { config, files, changes, clock, log } = options
  const { stateDir, runDir, birdCommand, address } = config
  const bird = new BirdDriver({ command: birdCommand, stateDir, runDir, address, files, changes, clock, log })
  const keystore = new KeystoreDriver({ ...options, stateDir })
  const state = serviceState(files, stateDir)
  const table: Readonly<Record<Capability, Operations>> = {
    bird: bird.operations,
    link: linkOperations(),
    proc: procOperations(),
    keystore: keystore.operations,
    state: state.operations,
  }
  return {
    start: async () => {
      await keystore.start()
      await bird.start()
    },
    call: async (service, capability, operation, input) => {
      const operations = Object.hasOwn(table, capability) ? table[capability as Capability] : undefined
      const run = operations && Object.hasOwn(operations, operation) ? operations[operation] : undefined
      if (!run) throw new OffboxError('CAPABILITY_DENIED', `there is no operation ${capability}.${operation}`)
      return await run(service, input)
    },
    adoptIdentity: async (identity) => await keystore.adopt(identity),
    sign: (bytesFor) => keystore.sign(bytesFor),
    forget: async (service) => {
      await state.forget(service)
      await keystore.forget(service)
    },
    close: async (how) => await bird.close(how),
  }
}
