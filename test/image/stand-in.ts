/** Inputs of an image for tests: a home with public anchors only, and a tiny program in place of the agent. */
import { generateKeyPairSync } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

/** Any certificate will do: the image carries it, nobody verifies with it here. */
const CA_PEM = `-----BEGIN CERTIFICATE-----\n${Buffer.alloc(300, 7).toString('base64')}\n-----END CERTIFICATE-----\n`

/** Makes DIR/home and DIR/agent; the program's source is `main`. */
export async function standIn(dir: string, main: string): Promise<{ homeDir: string; agentDir: string }> {
  const homeDir = join(dir, 'home')
  const agentDir = join(dir, 'agent')
  await mkdir(homeDir, { recursive: true })
  await mkdir(agentDir, { recursive: true })
  const anchors = { fleet: 'lab', caPem: CA_PEM, bundleKeys: ['5a'.repeat(32)], trust: publicTrust() }
  await writeFile(join(homeDir, 'anchors.json'), JSON.stringify(anchors))
  await writeFile(join(agentDir, 'main.mjs'), main)
  for (const name of ['worker-host.js', 'process-host.js', 'examiner.js']) await writeFile(join(agentDir, name), '// stand-in\n')
  await writeFile(join(agentDir, 'node.json'), '{"flags":["--max-semi-space-size=2"],"environment":{"OF_THE":"build"}}')
  return { homeDir, agentDir }
}

/** What anchors.json says of a trust repository; nothing here is signed. */
export function publicTrust(): { root: string; witnessKeys: string[]; builtAtMs: number } {
  const keyid = '3c'.repeat(32)
  const keys = { [keyid]: { keytype: 'ed25519', scheme: 'ed25519', keyval: { public: '5a'.repeat(32) } } }
  const roles = Object.fromEntries(['root', 'timestamp', 'snapshot', 'targets'].map((role) => [role, { keyids: [keyid], threshold: 1 }]))
  const signed = { _type: 'root', spec_version: '1.0.31', version: 1, expires: '2030-01-01T00:00:00Z', consistent_snapshot: true, keys, roles }
  return { root: JSON.stringify({ signed, signatures: [{ keyid, sig: 'ab'.repeat(64) }] }), witnessKeys: ['7b'.repeat(32)], builtAtMs: 1_790_000_000_000 }
}

/** A fresh private key in PEM: never of use to anybody. */
export function privateKeyPem(): string {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ type: 'pkcs8', format: 'pem' }).toString()
}
