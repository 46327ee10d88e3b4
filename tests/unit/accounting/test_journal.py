"""Answers in flight: recorded, replayed, and asked anew only where the question changed."""

import os
import warnings

import pytest
import torch

from kdlightning.accounting import AnswerJournal


class TestJournal:
    def questions(self):
        generator = torch.Generator().manual_seed(0)
        return [torch.rand(n, 1, 4, 4, generator=generator) for n in (3, 5, 2)]

    def answer(self, asked):
        def query(x):
            asked.append(len(x))
            return (x.flatten(1).sum(1) * 10).long() % 7

        return query

    def test_replays_in_order_and_asks_only_what_is_new(self, tmp_path):
        asked = []
        journal = AnswerJournal(tmp_path / "j", self.answer(asked))
        expected = [journal(x) for x in self.questions()[:2]]
        journal.close()
        journal = AnswerJournal(tmp_path / "j", self.answer(asked))
        again = [journal(x) for x in self.questions()]
        assert asked == [3, 5, 2]
        assert journal.replayed == 8
        assert all(torch.equal(one, other) for one, other in zip(expected, again[:2], strict=True))
        journal.close(delete=True)
        assert not (tmp_path / "j").exists()

    def test_cuts_off_what_a_kill_left_half_written(self, tmp_path):
        asked = []
        journal = AnswerJournal(tmp_path / "j", self.answer(asked))
        for x in self.questions():
            journal(x)
        journal.close()
        os.truncate(tmp_path / "j", (tmp_path / "j").stat().st_size - 3)
        journal = AnswerJournal(tmp_path / "j", self.answer(asked))
        for x in self.questions():
            journal(x)
        assert asked == [3, 5, 2, 2]

    def test_another_question_is_asked_anew_with_a_warning(self, tmp_path):
        asked = []
        journal = AnswerJournal(tmp_path / "j", self.answer(asked))
        for x in self.questions():
            journal(x)
        journal.close()
        journal = AnswerJournal(tmp_path / "j", self.answer(asked))
        first, second, third = self.questions()
        journal(first)
        with pytest.warns(UserWarning, match="2 recorded calls are asked anew"):
            journal(second + 0.001)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            journal(third)
        assert asked == [3, 5, 2, 5, 2]

    def soft(self, asked):
        def query(x):
            asked.append(len(x))
            return x.flatten(1)[:, :3].softmax(1)

        return query

    def test_soft_answers_come_back_bit_for_bit(self, tmp_path):
        asked = []
        journal = AnswerJournal(tmp_path / "j", self.soft(asked))
        expected = [journal(x) for x in self.questions()]
        journal.close()
        journal = AnswerJournal(tmp_path / "j", self.soft(asked))
        assert journal.pending == 10
        again = [journal(x) for x in self.questions()[:2]]
        assert journal.pending == 2
        again.append(journal(self.questions()[2]))
        assert asked == [3, 5, 2]
        assert journal.replayed == 10
        assert [answer.shape for answer in again] == [(3, 3), (5, 3), (2, 3)]
        assert all(answer.dtype == torch.float32 for answer in again)
        assert all(torch.equal(one, other) for one, other in zip(expected, again, strict=True))

    @pytest.mark.parametrize("lost", [1, 3 * 4 * 2, 3 * 4 * 2 + 5])
    def test_a_truncated_soft_answer_is_asked_again_and_written_whole(self, tmp_path, lost):
        asked = []
        journal = AnswerJournal(tmp_path / "j", self.soft(asked))
        expected = [journal(x) for x in self.questions()]
        journal.close()
        whole = (tmp_path / "j").read_bytes()
        os.truncate(tmp_path / "j", len(whole) - lost)
        journal = AnswerJournal(tmp_path / "j", self.soft(asked))
        assert journal.pending == 8
        again = [journal(x) for x in self.questions()]
        assert asked == [3, 5, 2, 2]
        assert all(torch.equal(one, other) for one, other in zip(expected, again, strict=True))
        assert (tmp_path / "j").read_bytes() == whole

    def test_a_damaged_soft_answer_is_not_believed(self, tmp_path):
        asked = []
        journal = AnswerJournal(tmp_path / "j", self.soft(asked))
        journal(self.questions()[0])
        journal.close()
        data = bytearray((tmp_path / "j").read_bytes())
        data[-2] ^= 1
        (tmp_path / "j").write_bytes(data)
        AnswerJournal(tmp_path / "j", self.soft(asked))(self.questions()[0])
        assert asked == [3, 3]

    def test_another_soft_question_is_asked_anew_with_a_warning(self, tmp_path):
        asked = []
        journal = AnswerJournal(tmp_path / "j", self.soft(asked))
        for x in self.questions():
            journal(x)
        journal.close()
        first, second, third = self.questions()
        journal = AnswerJournal(tmp_path / "j", self.soft(asked))
        journal(first)
        with pytest.warns(UserWarning, match="2 recorded calls are asked anew"):
            torch.testing.assert_close(journal(second[:4]), second[:4].flatten(1)[:, :3].softmax(1))
        journal(third)
        journal.close()
        assert asked == [3, 5, 2, 4, 2]
        journal = AnswerJournal(tmp_path / "j", self.soft(asked))
        assert journal.pending == 3 + 4 + 2
