"""Records that the project writes and reads: their types, the store of runs, where a run was made."""

from reproduce.records.fields import explained as explained
from reproduce.records.run_record import PARTS as PARTS
from reproduce.records.run_record import DataHash as DataHash
from reproduce.records.run_record import EpochRow as EpochRow
from reproduce.records.run_record import Filters as Filters
from reproduce.records.run_record import Record as Record
from reproduce.records.run_record import Result as Result
from reproduce.records.run_record import Running as Running
from reproduce.records.run_record import key_of as key_of
from reproduce.records.run_record import read_record as read_record
from reproduce.records.run_record import read_records as read_records
from reproduce.records.run_record import read_running as read_running
from reproduce.records.run_record import stem_of as stem_of
