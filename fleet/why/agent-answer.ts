/** Why the agent itself is what it is: it comes with the image, as a whole. */
import { createHash } from 'node:crypto'
import { AcctzMethods, AcctzStreamMethods } from '../../proto/gen/acctz.ts'
import { AuditMethods } from '../../proto/gen/audit.ts'
import { DeviceMethods, type InfoResponse } from '../../proto/gen/device.ts'
import { HealthMethods } from '../../proto/gen/health.ts'
import { LifecycleMethods } from '../../proto/gen/lifecycle.ts'
import { TrustMethods } from '../../proto/gen/trust.ts'
import type { Evidence } from './evidence.ts'
import { type Found, short, type Statement } from './statement.ts'

const TABLES: readonly Readonly<Record<string, { readonly path: string }>>[] = [
  AuditMethods,
  DeviceMethods,
  HealthMethods,
  LifecycleMethods,
  TrustMethods,
  AcctzMethods,
  AcctzStreamMethods,
]

/** Methods that every agent serves by itself. */
export function isAgentMethod(path: string): boolean {
  return path.startsWith('/grpc.reflection.') || TABLES.some((table) => Object.values(table).some((method) => method.path === path))
}

export async function answerAgent(evidence: Evidence): Promise<{ version: string; statements: Statement[] }> {
  const info = await evidence.info()
  if ('missing' in info) return { version: '', statements: [{ question: 'runs', standing: 'unknown', text: 'which agent runs', basis: info.missing }] }
  const { agentVersion, nodeVersion, kernel, imageSha256, boot, bootId, agentStarts } = info.value
  const image = imageSha256 ? `image ${imageSha256}` : 'from no image'
  const text = `the agent ${agentVersion} under Node ${nodeVersion} and Linux ${kernel}, ${image}, started ${agentStarts} times in boot ${bootId} (${boot})`
  const facts = { agentVersion, nodeVersion, kernel, imageSha256, boot, bootId, agentStarts }
  const runs: Statement = { question: 'runs', standing: 'stated', text, basis: `the word of ${evidence.source}: no hardware attests what was booted`, facts }
  return { version: agentVersion, statements: [runs, ...imageStatements(info.value, await evidence.image())] }
}

function imageStatements({ imageSha256 }: InfoResponse | { imageSha256: string }, found: Found<Uint8Array>): Statement[] {
  const question = 'source'
  const noCommit: Statement = {
    question,
    standing: 'unknown',
    text: 'from which commit the agent was built',
    basis: 'images name their files by digest, and no commit',
  }
  if (imageSha256 === '') return [{ question, standing: 'unknown', text: 'the agent runs from no image', basis: 'a local agent is whatever file was started' }]
  if ('missing' in found) return [{ question, standing: 'unknown', text: 'the image is not at hand', basis: found.missing }, noCommit]
  const raw = parsed(found.value) as Record<string, unknown> & { files?: { path: string; sha256: string }[] }
  const { format, agentVersion, nodeVersion, kernel, packages, files } = raw
  // In this order, as image/facts.ts seals them.
  const digest = createHash('sha256').update(JSON.stringify({ format, agentVersion, nodeVersion, kernel, packages, files })).digest('hex')
  if (digest !== imageSha256)
    return [{ question, standing: 'unknown', text: `the image that this home has is another one, ${short(digest)}`, basis: 'its image.json' }, noCommit]
  const main = files?.find(({ path }) => path === '/app/main.mjs')
  const text = `it is the image that this home has: ${files?.length ?? 0} files by digest, the agent's being ${main?.sha256 ?? 'not among them'}`
  return [
    {
      question,
      standing: 'verified',
      text,
      basis: 'image.json, whose digest is the one that the device names',
      facts: { imageSha256, agentSha256: main?.sha256 ?? null },
    },
    noCommit,
  ]
}

/** A file that is no JSON is another image's at most. */
function parsed(bytes: Uint8Array): unknown {
  try {
    const raw: unknown = JSON.parse(new TextDecoder().decode(bytes))
    return typeof raw === 'object' && raw !== null ? raw : {}
  } catch {
    return {}
  }
}
