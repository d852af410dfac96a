/** A lab of its own for one test file: brought up in a temporary home, removed afterwards whatever happened. */
import { existsSync, mkdtempSync, readFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { deviceDnsName } from '../../core/x509.ts'
import { bringUp, type Lab, type LabWish } from '../../fleet/lab/bring-up.ts'
import { missingPackages } from '../../fleet/lab/needs.mjs'
import { command } from '../../fleet/lab/process.ts'
import { Undo } from '../../fleet/lab/undo.ts'
import { type IdentityName, readIdentity } from '../../fleet/home/home.ts'
import { readSigningKey } from '../../fleet/home/keys.ts'
import { buildBundle, signBundle } from '../../fleet/registry/make.ts'

/** Why a lab cannot run here; false when it can. */
export function noLab(boot: 'local' | 'pxe'): string | false {
  if (process.getuid?.() !== 0) return 'not root: no network namespaces'
  const missing = missingPackages(boot, existsSync)
  return missing.length > 0 ? `Debian packages are missing: ${missing.map((one: { package: string }) => one.package).join(', ')}` : false
}

export interface LabUnderTest extends Lab {
  readonly said: string[]
  readonly signal: AbortSignal
}

/** Brings it up and has the test remove it at its end. What it said is shown when the test fails. */
export async function labFor(t: Test, wish: Omit<LabWish, 'home'>): Promise<LabUnderTest> {
  const home = mkdtempSync(join(tmpdir(), 'offbox-lab-'))
  const undo = new Undo()
  const said: string[] = []
  const { signal } = new AbortController()
  t.teardown(async () => {
    const failed = await undo.run()
    if (!t.passing()) for (const line of said) t.comment(line)
    await rm(home, { recursive: true, force: true })
    for (const what of failed) t.comment(`could not clean up: ${what}`)
  })
  try {
    const lab = await bringUp({ ...wish, home }, { say: (line) => void said.push(line), undo, signal })
    return { ...lab, said, signal }
  } catch (error) {
    for (const line of said) t.comment(line)
    throw error
  }
}

/** Builds, signs and returns a bundle of a service folder under another version. */
export async function signedBundle(lab: Lab, folder: string, version: string): Promise<Uint8Array> {
  const { file } = await buildBundle(folder, version)
  return signBundle(file, await readSigningKey(lab.home))
}

/**
 * Runs a snippet of ours inside a namespace of the lab, with a client for one device: a test's process stays outside.
 * @param as whose certificate the client shows
 * @param body statements of an async function with `rpc` (RpcClient) and the method tables of proto/gen in scope; returns JSON
 */
export async function insideLab<T>(lab: Lab, deviceId: string, body: string, as: IdentityName = 'operator'): Promise<T> {
  const device = lab.devices.find((one) => one.id === deviceId)
  if (!device) throw new Error(`no device ${deviceId} in this lab`)
  const here = import.meta.dirname
  const identity = await readIdentity(lab.home, as)
  const to = {
    target: `${device.port.address}:9339`,
    serverName: deviceDnsName(lab.fleet, deviceId),
    caPem: readFileSync(lab.home.caCertificate, 'utf8'),
    identity,
  }
  const script = `
import { RpcClient } from '${join(here, '../../fleet/rpc/client.ts')}'
import * as device from '${join(here, '../../proto/gen/device.ts')}'
import * as lifecycle from '${join(here, '../../proto/gen/lifecycle.ts')}'
import * as routing from '${join(here, '../../proto/gen/routing.ts')}'
import * as trust from '${join(here, '../../proto/gen/trust.ts')}'
import * as telemetry from '${join(here, '../../proto/gen/telemetry.ts')}'
import { readFileSync } from 'node:fs'
const rpc = new RpcClient(JSON.parse(readFileSync(0, 'utf8')))
const run = async () => { ${body} }
process.stdout.write(JSON.stringify(await run()) ?? 'null')
process.exit(0)
`
  const args = ['netns', 'exec', lab.network.namespace, process.execPath, '--input-type=module-typescript', '--eval', script]
  return JSON.parse(await command('ip', args, { input: JSON.stringify(to) })) as T
}
