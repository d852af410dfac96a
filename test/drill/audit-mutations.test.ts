import t from 'tap'
import { runDrill } from './run-drill.ts'

t.test('every mutation of every record is detected', { timeout: 250_000 }, async (t) => {
  const { code, verdict, stderr } = await runDrill(t, 'audit-mutations', '--records', '150')
  if (!t.equal(code, 0)) t.comment(stderr)
  t.match(verdict, { records: 150, detected: verdict.mutations, sound: true })
  t.ok(verdict.mutations >= 150 * 10, `${verdict.mutations} mutations`)
})

t.test('without the check of the previous hash, or without what the collector signed, the drill fails', { timeout: 250_000 }, async (t) => {
  const previous = await runDrill(t, 'audit-mutations', '--records', '60', '--sabotage', 'previous')
  t.equal(previous.code, 1)
  t.match(previous.verdict, { sound: true })
  t.ok(previous.verdict.kinds['change who it was'].detected < 10, 'a changed record is seen only where a signature stands right behind it')
  const head = await runDrill(t, 'audit-mutations', '--records', '60', '--sabotage', 'head')
  t.equal(head.code, 1)
  t.match(head.verdict.kinds, { fork: { detected: 0 } }, 'a thief of the device key can write another past')
})
