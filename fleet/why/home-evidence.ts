/** What the home itself holds: repository, policy, image, registry, records of rollouts. The same with a device at hand and without. */
import { join } from 'node:path'
import { messageOf, OffboxError } from '../../core/errors.ts'
import { isServiceName } from '../../core/manifest.ts'
import semver from 'semver'
import { isDeviceId, parseRecord } from '../device/record.ts'
import { readIfThere } from '../home/atomic.ts'
import type { Home } from '../home/home.ts'
import { RolloutStore } from '../rollout/state.ts'
import { readGeneration } from '../trust/generations.ts'
import { readPolicyOf } from '../trust/policy.ts'
import { openRepository } from '../trust/repository.ts'
import type { DeviceFacts, Evidence, RolloutFacts } from './evidence.ts'
import type { Found } from './statement.ts'

/** @throws whatever is a bug of ours; what a part of the product refuses is missing, with its words */
export async function seek<T>(act: () => Promise<T>): Promise<Found<T>> {
  try {
    return { value: await act() }
  } catch (error) {
    if (error instanceof OffboxError) return { missing: messageOf(error) }
    throw error
  }
}

/** Asks once, however often it is needed. */
export function once<T>(act: () => Promise<T>): () => Promise<T> {
  let asked: Promise<T> | null = null
  return async () => {
    asked ??= act()
    return await asked
  }
}

export function repositoryIn(home: Home): Evidence['repository'] {
  return once(
    async () =>
      await seek(async () => {
        const files = await readGeneration(home.trust)
        if (!files) return null
        const repository = openRepository(files)
        return { repository, policy: await readPolicyOf(home.trust, repository) }
      }),
  )
}

export function imageIn(home: Home): Evidence['image'] {
  return async () => {
    const path = join(home.image, 'image.json')
    const bytes = await readIfThere(path)
    return bytes ? { value: new Uint8Array(bytes) } : { missing: `${path} is not there` }
  }
}

/** Not verified: whoever uses it has its digest to compare with. */
export async function bundleIn(home: Home, service: string, version: string): Promise<Found<Uint8Array>> {
  if (!isServiceName(service) || semver.valid(version) !== version) return { missing: `${service} ${version} cannot be the name of a bundle` }
  const path = join(home.registry, service, `${version}.offbox`)
  const bytes = await readIfThere(path)
  return bytes ? { value: new Uint8Array(bytes) } : { missing: `${path} is not there` }
}

export async function deviceIn(home: Home, deviceId: string): Promise<Found<DeviceFacts>> {
  if (!isDeviceId(deviceId)) return { missing: `${JSON.stringify(String(deviceId).slice(0, 64))} cannot be the id of a device` }
  const path = join(home.devices, `${deviceId}.json`)
  const text = await readIfThere(path)
  if (!text) return { missing: `${path} is not there` }
  return await seek(async () => {
    const { desired, desiredBy = {}, routingDesiredBy = null } = parseRecord(String(text), deviceId)
    return { routingConfig: new Uint8Array(Buffer.from(desired.routingConfig, 'base64')), desiredBy, routingDesiredBy }
  })
}

export async function rolloutsIn(home: Home): Promise<Found<readonly RolloutFacts[]>> {
  try {
    return { value: (await RolloutStore.open(home.rollouts)).list() }
  } catch (error) {
    return { missing: `the records of rollouts in ${home.rollouts} cannot be read: ${messageOf(error)}` }
  }
}
