/**
 * Tampers with every record of an audit log that the agent wrote and the collector signed for, in every way there is, and verifies what comes of it.
 *
 *   npm run drill -- audit-mutations [--json] [--records 1000] [--only WORD] [--sabotage previous|head]
 *
 * `--sabotage previous` leaves the check of the previous hash out, `--sabotage head` what the collector signed: the drill must then fail.
 */
import { parseArgs } from 'node:util'
import { Chain } from '../../core/audit/chain.ts'
import { ExportVerifier, type Verdict } from '../../core/audit/verification.ts'
import { isRecord, MUTATIONS } from './audit-mutations/mutations.ts'
import { type Written, writeLog } from './audit-mutations/written.ts'

const SABOTAGES = ['previous', 'head'] as const
const say = (text: string) => void process.stderr.write(`${text}\n`)

function verify({ trust, head }: Written, lines: readonly Buffer[], sabotage: string | undefined): Verdict {
  // The collector's head is asked of the collector, and not of whoever hands the log over.
  const verifier = new ExportVerifier(trust, sabotage === 'head' ? null : head)
  for (const line of lines) {
    verifier.take(line)
    // One is enough to refuse it; without what the collector signed, those that rest on that do not count.
    if (sabotage !== 'head' && verifier.found > 0) break
  }
  const verdict = verifier.end()
  if (sabotage !== 'head') return verdict
  return { ...verdict, findings: verdict.findings.filter(({ what }) => !/collector signed/.test(what)) }
}

async function main(): Promise<number> {
  const options = {
    json: { type: 'boolean' },
    records: { type: 'string', default: '1000' },
    only: { type: 'string', default: '' },
    sabotage: { type: 'string' },
  } as const
  const { values } = parseArgs({ options })
  const { sabotage, only, json } = values
  const wanted = Number(values.records)
  if ((sabotage !== undefined && !SABOTAGES.includes(sabotage as never)) || !Number.isSafeInteger(wanted) || wanted < 20) {
    say(`--sabotage must be of ${SABOTAGES.join(', ')}, --records at least 20`)
    return 2
  }
  if (sabotage === 'previous') Chain.prototype.fits = () => true
  const log = await writeLog(wanted)
  const untouched = verify(log, log.lines, sabotage)
  const records = log.lines.filter(isRecord).length
  // A verifier that refuses everything would detect everything.
  const sound = untouched.findings.length === 0 && untouched.records === records && records === wanted
  if (!sound) say(`the untouched log of ${records} records does not verify: ${JSON.stringify(untouched.findings.slice(0, 3))}`)

  const kinds: Record<string, { mutations: number; detected: number }> = {}
  let mutations = 0
  let detected = 0
  for (const { name, forge } of MUTATIONS.filter((one) => one.name.includes(only))) {
    const kind = { mutations: 0, detected: 0 }
    kinds[name] = kind
    for (const [at, line] of log.lines.entries()) {
      const forged = isRecord(line) ? forge(log, at) : null
      if (!forged) continue
      kind.mutations += 1
      if (verify(log, forged, sabotage).findings.length > 0) kind.detected += 1
      else if (kind.mutations - kind.detected <= 3) say(`UNDETECTED ${name}, at line ${at}`)
    }
    mutations += kind.mutations
    detected += kind.detected
    if (!json) say(`${name}: ${kind.detected} of ${kind.mutations}`)
  }
  process.stdout.write(json ? `${JSON.stringify({ mutations, detected, records, sound, kinds })}\n` : `${detected} of ${mutations} mutations detected\n`)
  return sound && mutations > 0 && detected === mutations ? 0 : 1
}

process.exitCode = await main()
