import t from 'tap'
import { noLab } from '../integration/lab-under-test.ts'
import { runDrill } from './run-drill.ts'

t.test('the drill passes where the device comes back', { skip: noLab('local'), timeout: 800_000 }, async (t) => {
  const { code, verdict, stderr } = await runDrill(t, 'power-cycle', '--local')
  if (!t.equal(code, 0)) t.comment(stderr)
  t.match(verdict, { boot: 'local', passed: true, services: 3, bgpSessionEnds: 2 })
})

t.test('the drill fails where the controller has forgotten what the device should run', { skip: noLab('local'), timeout: 800_000 }, async (t) => {
  const { code, verdict } = await runDrill(t, 'power-cycle', '--local', '--sabotage', 'forget')
  t.equal(code, 1)
  t.match(verdict, { passed: false })
})
