import t from 'tap'
import { noLab } from '../integration/lab-under-test.ts'
import { runDrill } from './run-drill.ts'

t.test('on a device the kernel ends a service that takes more memory or threads than it may', { skip: noLab('pxe'), timeout: 880_000 }, async (t) => {
  const { code, verdict, stderr } = await runDrill(t, 'process-tier')
  if (!t.equal(code, 0)) t.comment(stderr)
  t.match(verdict, { boot: 'pxe', passed: true, agentRestarts: 0, othersRestarted: 0 })
})

t.test('the drill fails where the control groups bound nothing', { skip: noLab('pxe'), timeout: 880_000 }, async (t) => {
  const { code, verdict, stderr } = await runDrill(t, 'process-tier', '--sabotage', 'no-bounds')
  t.equal(code, 1)
  // Only a drill that came to its end says so; one that could not be run fails as well.
  if (!t.match(verdict, { boot: 'pxe', passed: false, threads: String })) t.comment(stderr)
  // With threads without end it dies by itself at times (SIGSEGV); what matters is that no bound was met.
  t.notMatch(verdict.threads, /pids\.max/)
})
