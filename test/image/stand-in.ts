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
  const anchors = { fleet: 'lab', caPem: CA_PEM, bundleKeys: ['5a'.repeat(32)] }
  await writeFile(join(homeDir, 'anchors.json'), JSON.stringify(anchors))
  await writeFile(join(agentDir, 'main.mjs'), main)
  for (const name of ['worker-host.js', 'process-host.js']) await writeFile(join(agentDir, name), '// stand-in\n')
  await writeFile(join(agentDir, 'node.json'), '{"flags":["--max-semi-space-size=2"],"environment":{"OF_THE":"build"}}')
  return { homeDir, agentDir }
}

/** A fresh private key in PEM: never of use to anybody. */
export function privateKeyPem(): string {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ type: 'pkcs8', format: 'pem' }).toString()
}
